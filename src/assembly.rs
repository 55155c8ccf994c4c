//! Between the checkpoint and the plan: gives the tensors of the opened files their catalogue names, lays the overlay over
//! them, and audits the result. All of it is arithmetic on headers, done by [`weightsd_core::assemble`].

use std::{collections::BTreeMap, sync::Arc};

use weightsd_core::{
    assemble::{self, AssembleError, Assembled, Inputs, Raw, declaration},
    explain::{Explain, Explanation, Reason},
    family::{ComponentSite, ConfigError, Description, Family, GENERIC, Membership, ModelFacts, Named},
    parts::Located,
    resemblance::Resemblance,
    table::Table,
    tool::Tool,
    weight_name,
};

use crate::snapshot::{Snapshot, SnapshotError};

/// What is known of a component before its files are opened.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Its family.
    pub family: &'static dyn Family,
    /// Where it is.
    pub site: ComponentSite,
    /// Where the component is, for messages.
    place: String,
    facts: Arc<ModelFacts>,
    description: Option<Description>,
    model: Option<Named>,
    /// Where it lies in its files, when they have no config.
    located: Option<Located>,
}

/// The tensors of files, and what the files say of themselves.
#[derive(Debug)]
pub struct Tensors<'a> {
    /// All tensors, under their own names.
    pub table: &'a Table,
    /// `__metadata__`.
    pub metadata: &'a BTreeMap<String, String>,
    /// What is untidy and refuses nothing.
    pub remarks: Vec<String>,
}

/// Why there is no recipe.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// Its config cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The base model cannot be used.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The base model is of another kind.
    #[error("the base model is of the family `{base}`, the weights are {}", of_family(family, looks.as_deref()))]
    OtherFamily {
        /// The base's.
        base: &'static str,
        /// The weights'.
        family: &'static str,
        /// What the weights look like, where no family takes them: a sentence and its hint.
        looks: Option<Box<(String, &'static str)>>,
    },
}

impl Explain for RecipeError {
    fn explain(&self) -> Explanation {
        match self {
            Self::Config(_) => {
                let hint = "the configuration is damaged or of another kind of model: fetch it again, or name the model that the \
                    weights belong to with `--base` (`base`)";
                Explanation::new(Reason::InvalidConfig, "", hint)
            }
            Self::Snapshot(error) => error.explain(),
            Self::OtherFamily { looks, .. } => {
                let hint =
                    looks.as_ref().map_or("name a model of the same kind with `--base` (`base`)", |looks| looks.1);
                Explanation::new(Reason::InvalidRequest, "base", hint)
            }
        }
    }
}

fn of_family(family: &str, looks: Option<&(String, &'static str)>) -> String {
    match (family, looks) {
        (GENERIC, Some((told, _))) => format!("of none that is known; {told}"),
        (GENERIC, None) => "of none that is known: neither their config nor their tensors are those of one".to_owned(),
        _ => format!("of `{family}`"),
    }
}

/// The family of `base`, for weights that nothing describes and that look like nothing else: where the base has a component
/// of that name, its catalogue says whether they are one.
fn kind_of_base(
    snapshot: &Snapshot,
    family: &'static dyn Family,
    site: &ComponentSite,
    base: &Snapshot,
) -> Option<&'static dyn Family> {
    let has_one = || base.sites().iter().any(|of_base| of_base.name == site.name);
    let is_untold = family.id() == GENERIC && site.config.is_none() && snapshot.resemblance().is_none();
    (is_untold && has_one()).then_some(base.family)
}

impl Recipe {
    /// The recipe of the component at `site` of `snapshot`, with the configs of `base` if there is one.
    ///
    /// # Errors
    /// When the config cannot be used, or the base model is of another family.
    pub fn new(
        snapshot: &Snapshot,
        site: &ComponentSite,
        spec: &str,
        base: Option<&Snapshot>,
    ) -> Result<Self, RecipeError> {
        let (family, located) = (snapshot.family_of(site), snapshot.located_in(site).cloned());
        // A base model describes only the components of its own family.
        let base = base.filter(|_| site.membership == Membership::Member);
        let family = base.and_then(|base| kind_of_base(snapshot, family, site, base)).unwrap_or(family);
        let model = family.name(Some(spec), base.map_or(&snapshot.facts, |base| &base.facts));
        let description = match base {
            Some(base) if base.family.id() != family.id() => {
                let looks = snapshot.resemblance().map(|found| Box::new((found.told(spec), found.hint())));
                return Err(RecipeError::OtherFamily { base: base.family.id(), family: family.id(), looks });
            }
            Some(base) => Some(family.describe(base.site(&site.name)?, &base.facts)?),
            // Files without a config are described by their tensors.
            None if located.is_some() => None,
            None => match family.describe(site, &snapshot.facts) {
                Err(ConfigError::Missing { .. }) if model.is_some() && snapshot.missing_documents.is_empty() => None,
                described => Some(described?),
            },
        };
        let place = weight_name::in_folder(spec, &site.folder).trim_end_matches('/').to_owned();
        let (site, facts) = (site.clone(), Arc::new(snapshot.facts.clone()));
        Ok(Self { family, site, place, facts, description, model, located })
    }

    /// What decides the component beside its weight files: configs, declarations, and the known model that it counts as.
    #[must_use]
    pub fn fingerprint(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut add = |name: &str, content: &[u8]| {
            bytes.extend_from_slice(format!("{name} {}\n", content.len()).as_bytes());
            bytes.extend_from_slice(content);
        };
        match &self.description {
            Some(description) => add("config", description.config.to_string().as_bytes()),
            None => add("model", self.model.map_or("", |model| model.model.name).as_bytes()),
        }
        for (path, content) in self.facts.documents.iter().filter(|(path, _)| path.ends_with("quantization.json")) {
            add(path, content);
        }
        bytes
    }

    /// Puts the component together and audits it.
    ///
    /// # Errors
    /// When the file lacks the component, when tensors contradict each other, or when a declaration cannot be used.
    pub fn assemble(&self, own: Tensors<'_>, other: Option<Tensors<'_>>) -> Result<Assembled, AssembleError> {
        let Self { family, site, place, facts, description, model, located } = self;
        let (component, family) = (site.name.as_str(), *family);
        let tool = Tool::of_metadata(own.metadata);
        let mut raw = match located {
            Some(located) => Raw::of_part(own.table, located, component, description.as_ref(), family, tool)?,
            None => Raw::of_files(own.table, component, description.as_ref(), family, tool)?,
        };
        raw.remarks.splice(0..0, own.remarks);
        if family.id() == GENERIC {
            raw.remarks.extend(Resemblance::of(own.table).map(|resemblance| resemblance.told(place)));
        }
        let declared = declaration(facts, site, own.metadata)?;
        let of_override = |other: Tensors<'_>| {
            let tool = Tool::of_metadata(other.metadata);
            Raw::of_override(other.table, component, description.as_ref(), family, tool)
        };
        let other = other.map(of_override).transpose()?;
        assemble::assemble(Inputs {
            component,
            family,
            description: description.clone(),
            model: *model,
            raw,
            other,
            declaration: declared.as_ref(),
        })
    }
}

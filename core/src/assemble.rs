//! Puts a component together: gives the tensors of its files their catalogue names, lays another file's over them,
//! quantised layers recognised, and all of it audited. The road of the data runs through here between the opened
//! headers and [`crate::place::place`].

use crate::{
    adapter::AdapterKey,
    audit::{AuditReport, audit},
    catalogue::Catalogue,
    explain::{Explain, Explanation, Reason},
    family::{Assumption, ComponentSite, ConfigError, Description, Family, InferError, ModelFacts, Named},
    json::without_python_numbers,
    layer_name::layer_of,
    layers::{Layers, Sought, layers},
    parts::{Located, PartProblem, locate},
    quantisation::{CONTROLNET_MANIFEST, Declaration, DeclarationError, MANIFEST},
    rewrite::{Canonical, Overlay, OverlayError, RewriteError, Rules, canonical, overlay},
    table::{Sourced, Table},
    tool::Tool,
    weight_name,
};

/// Why a component cannot be put together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssembleError {
    /// A config that its family cannot read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No config, and weights from which none can be inferred.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// Tensors that cannot be renamed.
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    /// A file that cannot be laid over the component.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// A quantisation that is in doubt.
    #[error(transparent)]
    Declaration(#[from] DeclarationError),
    /// The file does not hold the component.
    #[error("the file holds no `{component}`: {}", list(problems))]
    NoPart {
        /// The component.
        component: String,
        /// Why not.
        problems: Vec<PartProblem>,
    },
    /// Weights with the dimensions of another model.
    #[error("`{tensor}` is {found:?} in the file, and the model has {expected:?}")]
    OtherModel {
        /// The tensor that tells.
        tensor: String,
        /// What the model has.
        expected: Vec<u64>,
        /// What the file has.
        found: Vec<u64>,
    },
}

impl Explain for AssembleError {
    fn explain(&self) -> Explanation {
        let reason = match self {
            Self::NoPart { .. } => Reason::ComponentNotFound,
            Self::Config(_) | Self::Infer(_) | Self::Declaration(_) => Reason::InvalidConfig,
            Self::Rewrite(_) | Self::Overlay(_) | Self::OtherModel { .. } => Reason::InvalidCheckpoint,
        };
        let hint = match self {
            Self::Config(_) => "fetch the config again, or name a model that has it with `--base` (`base`)",
            Self::Infer(_) => "name a base model, the one that the weights belong to, with `--base` (`base`)",
            Self::Rewrite(_) => "the file mixes two layouts: save it anew in one of them",
            Self::Overlay(OverlayError::PlainOverQuantised { .. }) => {
                "lay it over a model that is not quantised, or dequantise this one first"
            }
            Self::Overlay(OverlayError::PartOfQuantised { .. }) => {
                "codes and scales are made together: take a file that has the whole layer"
            }
            Self::Overlay(OverlayError::QuantisedOverPlain { .. }) => {
                "name a base model that is quantised alike, or load the file as a model of its own"
            }
            Self::Overlay(OverlayError::NothingReplaced { sample, .. }) if AdapterKey::parse(sample).is_some() => {
                "the file is an adapter, which is added and replaces nothing: name it with `--adapter` (`adapters`)"
            }
            Self::Overlay(OverlayError::NothingReplaced { .. }) | Self::NoPart { .. } => {
                "look at what the file holds: `weightsd inspect <file>`"
            }
            Self::Declaration(_) => "fetch the manifest again: without it the packed weights have no meaning",
            Self::OtherModel { .. } => "the file belongs to another model: name that one with `--base` (`base`)",
        };
        Explanation::new(reason, "", hint)
    }
}

fn list(problems: &[PartProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// An assembled component.
#[derive(Debug, Clone)]
pub struct Assembled {
    /// What the component is. Its catalogue is that of the tensors as they lie on disk, packed ones included.
    pub description: Description,
    /// The tensors, under the catalogue's names.
    pub table: Table,
    /// What the file laid over it changed.
    pub overlay: Option<OverlaySummary>,
    /// Its quantised layers, and the tensors from which nothing is computed.
    pub layers: Layers,
    /// What was assumed, since nothing told.
    pub assumptions: Vec<Assumption>,
    /// The audit.
    pub report: AuditReport,
}

/// What a file laid over a component changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlaySummary {
    /// Names of tensors that come from the file now.
    pub replaced: Vec<String>,
    /// Names that only the file has.
    pub added: Vec<String>,
    /// How many are still the component's.
    pub kept: usize,
}

/// The tensors of one component, before its config is known.
#[derive(Debug, Clone)]
pub struct Raw {
    /// Under names without the part's prefix.
    pub canonical: Canonical,
    /// What is untidy and refuses nothing.
    pub remarks: Vec<String>,
}

impl Raw {
    /// The tensors of a component's own files: a folder of a diffusers directory, a control file.
    ///
    /// # Errors
    /// When the names fit no dialect of the family.
    pub fn of_files(
        table: &Table,
        component: &str,
        description: Option<&Description>,
        family: &dyn Family,
        tool: Tool,
    ) -> Result<Self, RewriteError> {
        Self::of(
            table.tensors().iter().map(|tensor| (&*tensor.info.name, tensor)),
            component,
            description,
            family,
            tool,
        )
    }

    /// The tensors of a component in a file that may hold several.
    ///
    /// # Errors
    /// When the file has no such part, or two of its tensors get the same name.
    pub fn of_part(
        table: &Table,
        located: &Located,
        component: &str,
        description: Option<&Description>,
        family: &dyn Family,
        tool: Tool,
    ) -> Result<Self, AssembleError> {
        let part = located.part(component).ok_or_else(|| AssembleError::NoPart {
            component: component.to_owned(),
            problems: located.problems.iter().filter(|problem| problem.component() == component).cloned().collect(),
        })?;
        let mut raw = Self::of(located.tensors(part, table), component, description, family, tool)?;
        raw.remarks.extend(part.limits.iter().map(ToString::to_string));
        Ok(raw)
    }

    /// The tensors of a file that is to take the place of some of a component's: those of its part, when it has a part
    /// of that kind, and all of it otherwise.
    ///
    /// # Errors
    /// When the names fit no dialect of the family.
    pub fn of_override(
        table: &Table,
        component: &str,
        description: Option<&Description>,
        family: &dyn Family,
        tool: Tool,
    ) -> Result<Self, AssembleError> {
        let rules: Vec<_> = family.parts().iter().filter(|rule| rule.component == component).copied().collect();
        let located = locate(table, &rules);
        if located.part(component).is_some_and(|part| !part.prefix.is_empty()) {
            return Self::of_part(table, &located, component, description, family, tool);
        }
        Ok(Self::of_files(table, component, description, family, tool)?)
    }

    fn of<'a>(
        tensors: impl Iterator<Item = (&'a str, &'a Sourced)>,
        component: &str,
        description: Option<&Description>,
        family: &dyn Family,
        tool: Tool,
    ) -> Result<Self, RewriteError> {
        // Tensors that nobody checks keep their names: a rule of the family would be a guess.
        let is_unchecked = description.is_some_and(|description| description.unchecked.is_some());
        let mut rules = if is_unchecked { Rules::NONE } else { family.rules(component, tool) };
        // The config's count wins over what the names seem to say: a file may lack a block.
        rules.count = description.and_then(|description| description.rules.count).or(rules.count);
        let canonical = canonical(tensors, &rules)?;
        let mut remarks = Vec::new();
        if let Some(first) = canonical.dropped.first() {
            remarks.push(format!("{} tensors of no use were left out, such as `{first}`", canonical.dropped.len()));
        }
        Ok(Self { canonical, remarks })
    }
}

/// What says how a component is quantised, if anything does: a manifest, the component's config, or a file's metadata.
///
/// # Errors
/// A declaration that is there and damaged.
pub fn declaration(
    facts: &ModelFacts,
    site: &ComponentSite,
    metadata: &std::collections::BTreeMap<String, String>,
) -> Result<Option<Declaration>, DeclarationError> {
    let in_folder = |name: &str| weight_name::in_folder(&site.folder, name);
    for path in [in_folder(CONTROLNET_MANIFEST), in_folder(MANIFEST), MANIFEST.to_owned()] {
        if let Some(json) = facts.documents.get(&path) {
            return Declaration::from_manifest(&path, json).map(Some);
        }
    }
    if let Some((path, json)) = site.config.as_ref().and_then(|path| Some((path, facts.documents.get(path)?))) {
        // What is not JSON at all is said when the config is read.
        if let Ok(config) = serde_json::from_slice(&without_python_numbers(json))
            && let Some(found) = Declaration::from_config(path, &config)?
        {
            return Ok(Some(found));
        }
    }
    Declaration::from_metadata("the file's metadata", metadata)
}

/// What is to be put together.
#[derive(Debug, Clone)]
pub struct Inputs<'a> {
    /// The component's name.
    pub component: &'a str,
    /// Its family.
    pub family: &'a dyn Family,
    /// The description from its config, or from the config of its base; `None` without either.
    pub description: Option<Description>,
    /// The known model that the model counts as.
    pub model: Option<Named>,
    /// Its tensors.
    pub raw: Raw,
    /// Tensors of another file that replace some of its own.
    pub other: Option<Raw>,
    /// How it is meant to be quantised.
    pub declaration: Option<&'a Declaration>,
}

/// Puts a component together and audits it.
///
/// # Errors
/// When the tensors do not make the component. Missing tensors, wrong shapes and unusable dtypes are no errors here:
/// the report has them.
pub fn assemble(inputs: Inputs<'_>) -> Result<Assembled, AssembleError> {
    let Inputs { component, family, description, model, raw, other, declaration } = inputs;
    let mut remarks = raw.remarks;
    let mut unusable = raw.canonical.unusable;
    let mut table = raw.canonical.table;
    let mut assumptions = Vec::new();
    let mut description = match (description, model) {
        (Some(description), _) => description,
        (None, Some(model)) => {
            let inferred = family.infer(component, &table, model)?;
            assumptions = inferred.assumptions;
            remarks.extend(inferred.remarks);
            inferred.description
        }
        (None, None) => {
            return Err(InferError::Unknown { problem: "the family does not know the model".to_owned() }.into());
        }
    };
    remarks.extend(family.refine(component, &mut description, &table));
    if let Some(reason) = &description.unchecked {
        remarks.push(format!("the tensors are not checked, since {reason}"));
    }
    let mut summary = None;
    if let Some(other) = other {
        check_width(&description, &other.canonical.table)?;
        let Overlay { table: whole, replaced, added, dropped, kept } = overlay(&table, &other.canonical.table)?;
        table = whole;
        remarks.extend(other.remarks);
        unusable.extend(other.canonical.unusable);
        remarks.push(format!("{} tensors come from the override, {kept} from the model", replaced.len() + added.len()));
        if let Some(first) = dropped.first() {
            let count = dropped.len();
            remarks.push(format!(
                "{count} tensors of the model, such as `{first}`, went with the layers that the override has"
            ));
        }
        summary = Some(OverlaySummary { replaced, added, kept });
    }
    let catalogue = description.catalogue.as_ref();
    let (naming, rules) = (&description.naming, description.rules.set);
    let stands_for = |layer: &str| rules.stands_for(layer);
    let found = layers(&Sought { component, table: &table, declaration, catalogue, naming, stands_for: &stands_for });
    found.describe(&mut table);
    remarks.extend(found.remarks.iter().cloned());
    description.catalogue = description.catalogue.map(|catalogue| found.quantised(&catalogue));
    let mut report = audit(component, &table, description.catalogue.as_ref(), remarks);
    report.add_damage(&unusable, &found.problems);
    report.add_foreign(&table, &found);
    report.borrowed.clone_from(&description.borrowed);
    Ok(Assembled { layers: found, description, table, overlay: summary, assumptions, report })
}

/// Refuses a file of another model's width in one sentence, where the audit would list every tensor: most of the norms
/// have other lengths. Some have the same in all models, those of the heads.
fn check_width(description: &Description, other: &Table) -> Result<(), AssembleError> {
    let norms = description.catalogue.iter().flat_map(Catalogue::tensors);
    let norms = norms.filter(|expected| expected.shape.len() == 1 && layer_of(&expected.name).is_some());
    let both = norms.filter_map(|expected| Some((expected, &other.get(&expected.name)?.info.shape)));
    let (same, different): (Vec<_>, Vec<_>) = both.partition(|(expected, found)| expected.shape == **found);
    match different.first() {
        Some((expected, found)) if different.len() > same.len() => Err(AssembleError::OtherModel {
            tensor: expected.name.clone(),
            expected: expected.shape.clone(),
            found: (*found).clone(),
        }),
        _ => Ok(()),
    }
}

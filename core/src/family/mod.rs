//! Model families: what a model of a kind consists of, and what its tensors are called.
//!
//! A family is a folder beside this file and one line in the list of families below; the engine knows no model. A family
//! answers five questions, each with one verb, from the cheapest to the dearest:
//!
//! | verb | answers | reads |
//! |---|---|---|
//! | [`detect`] | which family a model belongs to | the listing and the small JSON files |
//! | [`locate`] | which components lie in files without configs | names and shapes of their tensors |
//! | [`Family::describe`] | which tensors a component must have | its config |
//! | [`Family::infer`] | the same, where there is no config | shapes of its tensors |
//! | [`Family::name`] | which published model it is | ids, configs, words in its name |

mod causal_lm;
mod generic;
mod inferred;
mod known;
mod language_adapter;
pub mod z_image;

use std::collections::BTreeMap;

pub use inferred::{Assumption, InferError, Inferred};
pub use known::{KnownBy, KnownModel, Named, Preset, Usual};

use crate::{
    adapter::{ADAPTER_CONFIG, Targets},
    catalogue::Catalogue,
    derive::Float,
    impostor::Impostor,
    json::{from_object, parse_object},
    naming::Naming,
    parts::{self, Located, PartSign, SharedPrefixes},
    quantisation::{CONTROLNET_MANIFEST, MANIFEST},
    rewrite::Rules,
    table::Table,
    tool::Tool,
    weight_name,
};

/// Largest config file that is read, in bytes.
pub const CONFIG_BYTES_MAX: u64 = 1_000_000;

/// A model as far as its listing and its small JSON files show it.
#[derive(Debug, Clone, Default)]
pub struct ModelFacts {
    /// Paths of all files below the model's directory, with `/` between parts.
    pub files: Vec<String>,
    /// Content of the JSON files that [`is_document`] names, by path.
    pub documents: BTreeMap<String, Vec<u8>>,
}

/// Names of the small JSON files that every model may have.
const DOCUMENTS: [&str; 5] = ["config.json", "model_index.json", MANIFEST, CONTROLNET_MANIFEST, ADAPTER_CONFIG];

/// Whether a file is one of the small JSON files that are read: in the root or in a component's folder.
#[must_use]
pub fn is_document(path: &str) -> bool {
    let name = weight_name::split(path).1;
    let is_named = |names: &[&str]| names.contains(&name);
    path.matches('/').count() <= 1
        && (is_named(&DOCUMENTS) || FAMILIES.into_iter().any(|family| is_named(family.documents())))
}

/// The small JSON files of a small model, by path below its directory.
pub type Sample = &'static [(&'static str, &'static str)];

/// Where a component's files lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComponentSite {
    /// Component's name.
    pub name: String,
    /// Folder of its weights below the model's directory; empty for the root.
    pub folder: String,
    /// Expected name of its weight files, without shard number and ending.
    pub stem: String,
    /// Path of its config, when it has one.
    pub config: Option<String>,
    /// Whether the model's family knows the component.
    pub membership: Membership,
}

impl ComponentSite {
    /// A component that is in weight files in the root, called `stem`, and has no config.
    #[must_use]
    pub fn of_file(name: &str, stem: &str) -> Self {
        let (name, stem) = (name.to_owned(), stem.to_owned());
        Self { name, folder: String::new(), stem, config: None, membership: Membership::Member }
    }
}

/// Whether the family of a model knows one of its components.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Membership {
    /// It does.
    #[default]
    Member,
    /// The folder holds weights that the family has no name for, such as a `controlnet/` that somebody added to a
    /// pipeline. The generic family describes it.
    Stranger,
}

/// What a component is, read from its config.
#[derive(Debug, Clone)]
pub struct Description {
    /// The typed config as JSON; `null` when there is none.
    pub config: serde_json::Value,
    /// The tensors it must have; `None` when the family takes what is there.
    pub catalogue: Option<Catalogue>,
    /// Why there is no catalogue, where the family has one for components of this name.
    pub unchecked: Option<String>,
    /// Module names.
    pub naming: Naming,
    /// From other layouts' names to the catalogue's.
    pub rules: Rules,
    /// Names of tensors of another component that the model takes by reference.
    pub borrowed: Vec<String>,
}

impl Description {
    /// A component whose tensors are taken as they are: of no known kind, or of a kind that its family cannot check,
    /// for the reason `unchecked`.
    #[must_use]
    pub fn uncatalogued(config: serde_json::Value, unchecked: Option<String>) -> Self {
        let (naming, rules) = (Naming::NONE, Rules::NONE);
        Self { config, catalogue: None, unchecked, naming, rules, borrowed: Vec::new() }
    }
}

/// Why a config is not its family's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It is not there.
    #[error("`{path}` is missing")]
    Missing {
        /// Path below the model's directory.
        path: String,
    },
    /// Not JSON, or a field that is absent or of another type.
    #[error("`{path}` cannot be read: {problem}")]
    Malformed {
        /// Path below the model's directory.
        path: String,
        /// The parser's words.
        problem: String,
    },
    /// Values that no model can have.
    #[error("`{path}`: {problem}")]
    Impossible {
        /// Path below the model's directory.
        path: String,
        /// What is wrong.
        problem: String,
    },
}

/// A model family.
pub trait Family: Send + Sync + std::fmt::Debug {
    /// Short name, such as `z-image`.
    fn id(&self) -> &'static str;

    /// Whether the model belongs to this family.
    fn detects(&self, facts: &ModelFacts) -> bool;

    /// The components of a model of this family, present or not, in loading order.
    fn components(&self, facts: &ModelFacts) -> Vec<ComponentSite>;

    /// Reads the config of a component.
    ///
    /// # Errors
    /// When the config is missing or malformed, or describes a model that cannot exist.
    fn describe(&self, site: &ComponentSite, facts: &ModelFacts) -> Result<Description, ConfigError>;

    /// All typed configs of the model, by name, as JSON. Configs that cannot be read are left out: [`Self::describe`]
    /// says why when they are needed.
    fn configs(&self, facts: &ModelFacts) -> BTreeMap<String, serde_json::Value>;

    /// Names of small JSON files that it reads beside those that every model may have.
    fn documents(&self) -> &'static [&'static str] {
        &[]
    }

    /// A small model, from which `weightsd-samples` makes one with weights. Tests load it.
    fn sample(&self) -> Option<Sample> {
        None
    }

    /// How its components are found in one file.
    fn parts(&self) -> &'static [PartSign] {
        &[]
    }

    /// The tensors of a component in the family's published models, by which one that is nearly whole is recognised.
    fn published(&self, _component: &str) -> Option<Catalogue> {
        None
    }

    /// Rules for the names of a component's tensors, before anything else is known of it.
    fn rules(&self, _component: &str, _tool: Tool) -> Rules {
        Rules::NONE
    }

    /// Describes a component that comes without a config by its tensors, which have the catalogue's names. `model` is
    /// what the model was taken for.
    ///
    /// # Errors
    /// When the tensors that would tell are absent, contradict each other, or fit no model that is known.
    fn infer(&self, component: &str, _table: &Table, _model: Named) -> Result<Inferred, InferError> {
        Err(InferError::Unknown { problem: format!("nothing tells what `{component}` should hold without a config") })
    }

    /// Layers of a component that adapters change; `None` when the family knows of none.
    fn adapter_targets(&self, _component: &str) -> Option<&'static Targets> {
        None
    }

    /// The dtype in which its users expect a component's floats; `None`: each as it is stored.
    fn float(&self, _component: &str) -> Option<Float> {
        None
    }

    /// The names that mflux's modules have; `None` when the family does not know them.
    fn mflux_names(&self, _component: &str) -> Option<Naming> {
        None
    }

    /// Whether a layer is quantised when somebody asks for quantised weights and names no layers. Only asked of matrices
    /// whose rows are whole groups.
    fn quantises(&self, _component: &str, layer: &str) -> bool {
        !layer.contains("embed") && !layer.contains("norm")
    }

    /// Corrects a description by what the tensors, under the catalogue's names, show beyond the config. Says what it
    /// corrected.
    fn refine(&self, _component: &str, _description: &mut Description, _table: &Table) -> Option<String> {
        None
    }

    /// Names the published model that this is. `spec` is an id or a path, as the user wrote it.
    fn name(&self, _spec: Option<&str>, _facts: &ModelFacts) -> Option<Named> {
        None
    }
}

/// Finds the family that knows the tensors of a file, and what the file holds. `None` when no family knows any.
#[must_use]
pub fn locate(table: &Table) -> Option<(&'static dyn Family, Located)> {
    let (family, mut located) = locate_all(&[table])?;
    Some((family, located.swap_remove(0)))
}

/// Finds the family that knows most tensors of `tables`, the tables of one model, and locates the parts in each of them. A
/// table may hold none. `None` when no family knows any tensor.
#[must_use]
pub fn locate_all(tables: &[&Table]) -> Option<(&'static dyn Family, Vec<Located>)> {
    let all = FAMILIES.into_iter().filter(|family| !family.parts().is_empty()).map(|family| {
        let located: Vec<_> = tables.iter().map(|table| parts::locate(table, family.parts())).collect();
        let known = located.iter().flat_map(|located| &located.parts).map(|part| part.tensors).sum::<usize>();
        (known, family, located)
    });
    let most = all.filter(|(known, ..)| *known > 0).max_by_key(|(known, ..)| *known)?;
    Some((most.1, most.2))
}

/// Like [`locate_all`], for tables that the caller assigns to `family`. `None` when no table holds a part of it.
#[must_use]
pub fn locate_as(tables: &[&Table], family: &dyn Family) -> Option<Vec<Located>> {
    let locate = |table: &&Table| parts::locate_by(table, family.parts(), SharedPrefixes::ByName);
    let located: Vec<_> = tables.iter().map(locate).collect();
    located.iter().any(|located| !located.parts.is_empty()).then_some(located)
}

/// The id of the family that takes everything.
pub const GENERIC: &str = "generic";

/// Families in the order in which they are asked; the last one takes everything.
static FAMILIES: [&dyn Family; 3] = [&z_image::ZImage, &causal_lm::CausalLm, &generic::Generic];

/// All families.
pub fn all() -> impl Iterator<Item = &'static dyn Family> {
    FAMILIES.into_iter()
}

/// The components that adapters can change, by family, in words.
#[must_use]
pub fn adapted() -> String {
    let facts = ModelFacts::default();
    let of = |family: &'static dyn Family| {
        let sites = family.components(&facts).into_iter();
        let names: Vec<_> = sites.map(|site| site.name).filter(|name| family.adapter_targets(name).is_some()).collect();
        (!names.is_empty()).then(|| format!("{} of the family `{}`", names.join(" and "), family.id()))
    };
    all().filter_map(of).collect::<Vec<_>>().join(", ")
}

/// The first family that recognises the model.
#[must_use]
pub fn detect(facts: &ModelFacts) -> &'static dyn Family {
    FAMILIES.into_iter().find(|family| family.detects(facts)).unwrap_or(&generic::Generic)
}

/// All components of a model: those of its family, and after them the folders with weights that the family has no name
/// for.
#[must_use]
pub fn components(family: &dyn Family, facts: &ModelFacts) -> Vec<ComponentSite> {
    let mut sites = family.components(facts);
    if family.id() == GENERIC {
        return sites;
    }
    for mut site in generic::Generic.components(facts) {
        if sites.iter().any(|known| known.folder == site.folder) {
            continue;
        }
        if sites.iter().any(|known| known.name == site.name) {
            site.name = format!("./{}", site.name);
        }
        sites.push(ComponentSite { membership: Membership::Stranger, ..site });
    }
    sites
}

/// The family that describes the component at `site` of a model of `family`.
#[must_use]
pub fn of_site(family: &'static dyn Family, site: &ComponentSite) -> &'static dyn Family {
    match site.membership {
        Membership::Member => family,
        Membership::Stranger => &generic::Generic,
    }
}

/// Checks that every number is between 1 and its limit, so that no config can ask for a catalogue of billions.
fn within(values: &[(&str, u64, u64)]) -> Result<(), String> {
    match values.iter().find(|(_, value, max)| *value == 0 || value > max) {
        Some((name, value, max)) => Err(format!("`{name}` is {value}, expected 1 to {max}")),
        None => Ok(()),
    }
}

/// Parses a JSON file of the model, as it is written.
fn read_json(facts: &ModelFacts, path: &str) -> Result<serde_json::Map<String, serde_json::Value>, ConfigError> {
    let bytes = facts.documents.get(path).ok_or_else(|| ConfigError::Missing { path: path.to_owned() })?;
    let problem = |problem| Impostor::in_place_of_json(bytes).unwrap_or(problem);
    parse_object(bytes).map_err(|error| ConfigError::Malformed { path: path.to_owned(), problem: problem(error) })
}

/// Parses a config file of the model into its type. The libraries that write configs write `null` for what is not set,
/// so a key that is `null` counts as absent.
fn read_config<T: serde::de::DeserializeOwned>(facts: &ModelFacts, path: &str) -> Result<T, ConfigError> {
    let mut written = read_json(facts, path)?;
    written.retain(|_, value| !value.is_null());
    from_object(written).map_err(|problem| ConfigError::Malformed { path: path.to_owned(), problem })
}

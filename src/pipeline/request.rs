//! What is asked of the pipeline.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use weightsd_core::{
    derive::{Conversion, Float, Fused, Packing},
    family::Family,
    place::Layout,
};

use crate::resolve::{Address, Choice, Pin, Selector};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Request {
    /// The model.
    pub selector: Selector,
    /// The component's name.
    pub component: String,
    /// The model whose configs are taken, where the model has none.
    pub base: Option<Selector>,
    /// A file whose tensors take the place of some of the component's.
    pub overlay: Option<Selector>,
    /// What is added to its weights, in this order.
    pub adapters: Vec<Adapter>,
    /// The layout.
    pub layout: Layout,
    /// What is to be computed.
    pub treatment: Treatment,
    /// What a failed audit does.
    pub policy: AuditPolicy,
    /// When the content is compared with its hashes.
    pub verification: Verification,
}

/// An adapter, and how much of it is wanted.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// Where it is.
    pub selector: Selector,
    /// 1 for all of it.
    pub scale: f64,
}

impl PartialEq for Adapter {
    fn eq(&self, other: &Self) -> bool {
        self.selector == other.selector && self.scale.to_bits() == other.scale.to_bits()
    }
}

impl Eq for Adapter {}

impl Hash for Adapter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.selector.hash(state);
        self.scale.to_bits().hash(state);
    }
}

/// In which dtype floats are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum FloatWish {
    /// As the family's users expect it in layout MLX, and as they are stored in layout SOURCE.
    #[default]
    Usual,
    /// As they are stored.
    AsStored,
    /// All in one.
    All(Float),
}

/// What is to be computed, before it is known of which family the model is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Treatment {
    /// The dtype of floats.
    pub float: FloatWish,
    /// How weights are packed.
    pub packing: Packing,
    /// What becomes of quantised layers to which adapters add.
    pub fused: Fused,
}

impl Treatment {
    /// What it means for a component of `family`.
    #[must_use]
    pub fn of(&self, family: &dyn Family, component: &str, layout: Layout) -> Conversion {
        let dtype = match (self.float, layout) {
            (FloatWish::Usual, Layout::Mlx) => family.float(component),
            (FloatWish::Usual, Layout::Source) | (FloatWish::AsStored, _) => None,
            (FloatWish::All(float), _) => Some(float),
        };
        Conversion { dtype, packing: self.packing.clone(), fused: self.fused }
    }
}

/// When files that were on this machine before are hashed. What the daemon downloads is hashed as it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verification {
    /// Once, after they are lent; holders are told if something is wrong.
    Afterwards,
    /// Once, before they are lent.
    Before,
}

/// What is done with a component that does not match its catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuditPolicy {
    /// It is refused.
    Strict,
    /// It is lent all the same.
    ReportOnly,
}

/// A name that was looked up: what it names, and the commit it means.
#[derive(Debug, Clone)]
pub struct Pinned {
    /// What it names.
    pub address: Arc<Address>,
    /// The commit.
    pub pin: Option<Pin>,
}

/// What a request names, looked up.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The model.
    pub model: Pinned,
    /// The model whose configs are taken.
    pub base: Option<Pinned>,
    /// The file that is laid over it.
    pub overlay: Option<Pinned>,
    /// What is added to its weights.
    pub adapters: Vec<Pinned>,
}

/// What is needed of a model beside the one that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needed {
    /// Its configs.
    Documents,
    /// The weights in its root.
    RootWeights,
    /// The one file of an adapter.
    Adapter,
}

/// What is taken from elsewhere for an audit.
#[derive(Debug, Clone, Default)]
pub struct Others {
    /// The model whose configs are taken.
    pub base: Option<(Pinned, Choice)>,
    /// The file that is laid over the component.
    pub overlay: Option<(Pinned, Choice)>,
}

//! What a caller asks of the pipeline.

use std::sync::Arc;

use weightsd_core::{
    catalogue::AuditPolicy,
    derive::{Conversion, Float, Form, Merged, Packing},
    family::Family,
    ingredients::Ingredients,
    place::Layout,
};

use crate::resolve::{Address, Choice, Network, Pin, Selector};

/// A component as it is asked for. Nothing was looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Request {
    /// The models that it is made of.
    pub models: Ingredients<Selector>,
    /// The component's name.
    pub component: String,
    /// The layout.
    pub layout: Layout,
    /// What is to be computed.
    pub treatment: Treatment,
    /// What a failed audit does.
    pub policy: AuditPolicy,
    /// When the content is compared with its hashes.
    pub verification: Verification,
}

impl Request {
    /// Whether the caller named the dtype, and is refused where some tensors cannot have it.
    #[must_use]
    pub fn names_dtype(&self) -> bool {
        matches!(self.treatment.float, FloatWish::All(_))
    }
}

impl Request {
    /// Whether everything is asked for as it is stored, so that nothing can have to be computed.
    #[must_use]
    pub fn is_as_stored(&self) -> bool {
        self.layout == Layout::Source
            && matches!(self.treatment.float, FloatWish::Usual | FloatWish::AsStored)
            && self.treatment.packing == Packing::AsStored
            && self.treatment.form == Form::Segments
            && self.models.adapters.is_empty()
    }
}

/// The dtype in which floats are wanted.
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

/// What is to be computed, as it is asked for: the family of the model is not known yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Treatment {
    /// The dtype of floats.
    pub float: FloatWish,
    /// How weights are packed.
    pub packing: Packing,
    /// What becomes of quantised layers that adapters change.
    pub merged: Merged,
    /// What the files are.
    pub form: Form,
}

impl Treatment {
    /// The conversion that it means for a component of `family`.
    #[must_use]
    pub fn of(&self, family: &dyn Family, component: &str, layout: Layout) -> Conversion {
        let dtype = match (self.float, layout) {
            (FloatWish::Usual, Layout::Mlx | Layout::Mflux) => family.float(component),
            (FloatWish::Usual, Layout::Source) | (FloatWish::AsStored, _) => None,
            (FloatWish::All(float), _) => Some(float),
        };
        Conversion { dtype, packing: self.packing.clone(), merged: self.merged, form: self.form }
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

/// A selector that was looked up: its address, and the commit that the address means now.
#[derive(Debug, Clone)]
pub struct Pinned {
    /// What the selector names.
    pub address: Arc<Address>,
    /// The commit. `None` for a path, and for a revision that only the source could tell.
    pub pin: Option<Pin>,
    /// Which of several sets of weights is meant.
    pub choice: Choice,
    /// Whether the source may be asked for what is missing.
    pub network: Network,
}

//! What is asked of the pipeline.

use std::sync::Arc;

use weightsd_core::plan::Layout;

use crate::resolve::{Choice, Pin, Selector, Target};

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
    /// The layout.
    pub layout: Layout,
    /// What a failed audit does.
    pub policy: AuditPolicy,
    /// When the content is compared with its hashes.
    pub verification: Verification,
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
    pub target: Arc<Target>,
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
}

/// What is needed of a model beside the one that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needed {
    /// Its configs.
    Documents,
    /// The weights in its root.
    RootWeights,
}

/// What is taken from elsewhere for an audit.
#[derive(Debug, Clone, Default)]
pub struct Others {
    /// The model whose configs are taken.
    pub base: Option<(Pinned, Choice)>,
    /// The file that is laid over the component.
    pub overlay: Option<(Pinned, Choice)>,
}

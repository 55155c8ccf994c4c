//! A loaded component: its tensors, the daemon's description of it, and its lease.

use std::{fmt, fs::File, mem, sync::Arc};

use weightsd_proto::v1::{self, AuditReport, Notice, Progress, ResolvedModel};

use crate::{LeaseState, LeaseWatch, Tensor, Tensors, Tree, UnflattenError, holding::Holding};

/// A component, mapped and leased. Dropping it ends the lease; [`Tensors`] taken from it stay readable.
///
/// When the daemon ends, the lease ends with it. A task then asks whichever daemon serves on the same socket for a lease on
/// the same component, without mapping anything anew, until there is one or the component is another one by now;
/// [`Component::next_notice`] tells of both. The task runs on the runtime that the component was loaded on.
#[must_use = "dropping a component ends its lease"]
pub struct Component {
    info: Arc<v1::Component>,
    tensors: Tensors,
    files: Vec<File>,
    holding: Holding,
}

impl Component {
    pub(crate) fn new(mut info: v1::Component, tensors: Tensors, files: Vec<File>, holding: Holding) -> Component {
        // The ticket was used, and callers may print `info`.
        if let Some(lease) = &mut info.lease {
            lease.ticket.clear();
        }
        Component { info: Arc::new(info), tensors, files, holding }
    }

    /// A hash of everything that determines the content, in 64 hex digits.
    pub fn id(&self) -> &str {
        &self.info.id
    }

    /// `transformer`, `text_encoder`, `vae`, ...
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// The family of the model.
    pub fn family(&self) -> &str {
        &self.info.family
    }

    /// The component's configuration as JSON; empty when it has none.
    pub fn config_json(&self) -> &str {
        &self.info.config_json
    }

    /// The model it belongs to, its revision pinned.
    pub fn model(&self) -> Option<&ResolvedModel> {
        self.info.model.as_ref()
    }

    /// The audit of the checkpoint against the family's catalogue.
    pub fn audit(&self) -> Option<&AuditReport> {
        self.info.audit.as_ref()
    }

    /// The daemon's whole description of the component, with segments, lease and timings, and without the ticket.
    pub fn info(&self) -> &v1::Component {
        &self.info
    }

    /// The same, for those who need it after the lease.
    #[must_use]
    pub fn shared_info(&self) -> Arc<v1::Component> {
        Arc::clone(&self.info)
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.tensors.get(name)
    }

    /// All tensors, in the order of their names.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = Tensor<'_>> + DoubleEndedIterator {
        self.tensors.iter()
    }

    /// The tensors as the tree that the dots in their names describe; see [`Tensors::unflatten`].
    ///
    /// # Errors
    /// When the name of a tensor is also the beginning of others, or has too many parts.
    pub fn unflatten(&self) -> Result<Tree<Tensor<'_>>, UnflattenError> {
        self.tensors.unflatten()
    }

    /// The tensors as arrays of MLX over the same pages; see [`Arrays`](crate::Arrays).
    #[cfg(feature = "mlx")]
    pub fn arrays(&self) -> Result<crate::Arrays, crate::ArraysError> {
        self.tensors.arrays()
    }

    /// The tensors and their mappings, which may outlive the lease.
    pub fn storage(&self) -> Tensors {
        self.tensors.clone()
    }

    /// Gives away the files of its segments, in their order, each in the state in which it was lent. Empty unless the
    /// request asked for [`Files::Kept`](crate::Files::Kept), and the second time.
    pub fn take_files(&mut self) -> Vec<File> {
        mem::take(&mut self.files)
    }

    /// Ends the lease and keeps the tensors. The daemon may then drop the component, and sends no notice when somebody
    /// changes its files.
    #[must_use]
    pub fn release(self) -> Tensors {
        self.tensors
    }

    /// Waits for the next notice. `None` when no more will come: the lease is lost, or the load had no hold. While the
    /// daemon is away none comes, and afterwards the news that there is a lease again. Dropping the future loses no notice.
    pub async fn next_notice(&mut self) -> Option<Notice> {
        self.holding.next_notice().await
    }

    /// How far the daemon is with bringing the bytes into memory, which is worth waiting for or not; `None` while it has said
    /// nothing, and when there was nothing to be done.
    pub fn read_ahead(&self) -> Option<Progress> {
        self.holding.progress()
    }

    /// How the lease stands now.
    pub fn lease_state(&self) -> LeaseState {
        self.holding.state()
    }

    /// How the lease stands, for those who look after the component has been given away.
    pub fn lease_watch(&self) -> LeaseWatch {
        self.holding.watch()
    }
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Component")
            .field("id", &self.info.id)
            .field("name", &self.info.name)
            .field("tensors", &self.tensors)
            .finish_non_exhaustive()
    }
}

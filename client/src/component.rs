//! A loaded component: its tensors, the daemon's description of it, and the stream that is its lease.

use std::{collections::VecDeque, fmt, fs::File, mem, sync::Arc};

use tonic::Streaming;
use weightsd_proto::v1::{
    self, AuditReport, LoadComponentResponse, Notice, ResolvedModel, load_component_response::Event,
};

use crate::{Tensor, Tensors, Tree, UnflattenError, connect::Service};

/// A component, mapped and leased. Dropping it ends the lease; [`Tensors`] taken from it stay readable.
#[must_use = "dropping a component ends its lease"]
pub struct Component {
    info: Arc<v1::Component>,
    tensors: Tensors,
    files: Vec<File>,
    notices: VecDeque<Notice>,
    stream: Streaming<LoadComponentResponse>,
    /// Keeps the connection under `stream` open when the client is dropped first.
    _service: Service,
}

impl Component {
    pub(crate) fn new(
        mut info: v1::Component,
        tensors: Tensors,
        files: Vec<File>,
        notices: VecDeque<Notice>,
        stream: Streaming<LoadComponentResponse>,
        service: Service,
    ) -> Component {
        // The ticket was used, and callers may print `info`.
        if let Some(lease) = &mut info.lease {
            lease.ticket.clear();
        }
        Component { info: Arc::new(info), tensors, files, notices, stream, _service: service }
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

    /// Waits for the next notice. `None` when no more will come: the daemon is gone, or the load had no hold. Dropping
    /// the future loses no notice.
    pub async fn next_notice(&mut self) -> Option<Notice> {
        next_notice(&mut self.notices, &mut self.stream).await
    }
}

/// The next of the notices that have come, or that come on the stream.
pub(crate) async fn next_notice(
    notices: &mut VecDeque<Notice>,
    stream: &mut Streaming<LoadComponentResponse>,
) -> Option<Notice> {
    if let Some(notice) = notices.pop_front() {
        return Some(notice);
    }
    loop {
        match stream.message().await {
            Ok(Some(LoadComponentResponse { event: Some(Event::Notice(notice)) })) => return Some(notice),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return None,
        }
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

//! Holding a component: reads the stream that is its lease, gathers what the daemon says of it, and asks for the lease
//! again when the daemon that gave it is gone. Nothing is mapped anew for that.

use std::{collections::VecDeque, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::sleep,
};
use tonic::Streaming;
use weightsd_core::{explain::sentence, gguf_files};
use weightsd_proto::{
    PROTOCOL,
    v1::{
        self, ErrorReason, GetStatusRequest, LoadComponentRequest, LoadComponentResponse, ModelKind, Notice,
        NoticeKind, Progress, load_component_response::Event,
    },
};

use crate::{ClientError, ConnectError, connect::Service, deadline::Deadline};

/// Notices that wait for a reader. Those that come after them are dropped.
const NOTICES_MAX: usize = 64;
/// Pause before the lease is asked for again. It doubles with each failure.
const PAUSE: Duration = Duration::from_millis(20);
/// The longest pause, while no daemon serves.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Names the request in errors.
const OPERATION: &str = "asking for the lease again";

/// How a lease stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    /// The daemon keeps the component for this process.
    Held,
    /// The daemon is gone, and its successor is asked.
    Interrupted,
    /// There is none any more, or there was none: the component is another one by now, or the load had no hold.
    Ended,
}

/// Tells how a lease stands, also after its component was given away.
#[derive(Debug, Clone)]
pub struct LeaseWatch(watch::Receiver<LeaseState>);

impl LeaseWatch {
    /// How it stands now. A lease whose component was dropped has ended.
    #[must_use]
    pub fn state(&self) -> LeaseState {
        // Nobody is left to hold it when nobody is left to say so.
        if self.0.has_changed().is_err() { LeaseState::Ended } else { *self.0.borrow() }
    }
}

/// A lease as a load leaves it.
pub(crate) struct Lease {
    /// Is the lease, and ends with it.
    pub(crate) stream: Streaming<LoadComponentResponse>,
    /// What came with the component.
    pub(crate) notices: VecDeque<Notice>,
    /// The connection, which is made anew when it must.
    pub(crate) service: Service,
}

/// A lease that is looked after. Dropping it ends the lease.
pub(crate) struct Holding {
    early: VecDeque<Notice>,
    notices: mpsc::Receiver<Notice>,
    state: LeaseWatch,
    progress: watch::Receiver<Option<Progress>>,
    keeper: JoinHandle<()>,
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Holding {
    /// Looks after a lease on `component`, which `request` has brought. The daemon may be silent for as long as `patience`.
    #[expect(clippy::disallowed_methods, reason = "the component owns the task, and aborts it when it is dropped")]
    pub(crate) fn begin(
        lease: Lease,
        component: &v1::Component,
        request: LoadComponentRequest,
        patience: Duration,
    ) -> Holding {
        let Lease { stream, notices: early, service } = lease;
        let (sender, notices) = mpsc::channel(NOTICES_MAX);
        let has_hold = request.hold() != v1::Hold::None;
        let (state, watched) = watch::channel(if has_hold { LeaseState::Held } else { LeaseState::Ended });
        let (seen, progress) = watch::channel(None);
        let request = again(request, component);
        let keeper = Keeper { service, request, patience, notices: sender, state, progress: seen };
        let keeper = tokio::spawn(keeper.keep(stream));
        Holding { early, notices, state: LeaseWatch(watched), progress, keeper }
    }

    pub(crate) async fn next_notice(&mut self) -> Option<Notice> {
        match self.early.pop_front() {
            Some(notice) => Some(notice),
            None => self.notices.recv().await,
        }
    }

    pub(crate) fn progress(&self) -> Option<Progress> {
        self.progress.borrow().clone()
    }

    pub(crate) fn state(&self) -> LeaseState {
        self.state.state()
    }

    pub(crate) fn watch(&self) -> LeaseWatch {
        self.state.clone()
    }
}

/// The request for another lease on `component`: the commit is named that the revision meant then, and nothing is
/// downloaded.
fn again(mut request: LoadComponentRequest, component: &v1::Component) -> LoadComponentRequest {
    request.lease_again = component.id.clone();
    let LoadComponentRequest { model, base, overlay, adapters, .. } = &mut request;
    if let (Some(own), Some(found)) = (model.as_mut(), &component.model)
        && found.kind() == ModelKind::Hub
    {
        if let (true, Some((_, variant))) = (own.variant.is_empty(), gguf_files::with_quantisation(&own.spec)) {
            own.variant = variant.to_owned();
        }
        (own.spec, own.revision) = (found.repo.clone(), found.commit.clone());
    }
    let adapters = adapters.iter_mut().filter_map(|adapter| adapter.model.as_mut());
    [model, base, overlay].into_iter().flatten().chain(adapters).for_each(|selector| selector.offline = true);
    request
}

/// Reads the stream of one lease after the other.
struct Keeper {
    service: Service,
    request: LoadComponentRequest,
    patience: Duration,
    notices: mpsc::Sender<Notice>,
    state: watch::Sender<LeaseState>,
    progress: watch::Sender<Option<Progress>>,
}

impl Keeper {
    async fn keep(self, mut stream: Streaming<LoadComponentResponse>) {
        loop {
            while let Ok(Some(message)) = stream.message().await {
                match message.event {
                    // A reader that never comes has had the first ones, which say most.
                    Some(Event::Notice(notice)) => drop(self.notices.try_send(notice)),
                    Some(Event::Progress(progress)) => drop(self.progress.send_replace(Some(progress))),
                    _ => {}
                }
            }
            if *self.state.borrow() == LeaseState::Ended {
                return;
            }
            self.state.send_replace(LeaseState::Interrupted);
            stream = match self.asked_again().await {
                Ok(stream) => stream,
                Err(error) => {
                    self.state.send_replace(LeaseState::Ended);
                    let reason = sentence(&error);
                    self.say(
                        NoticeKind::LeaseLost,
                        format!("the lease is lost, what is mapped stays readable: {reason}"),
                    );
                    return;
                }
            };
            self.state.send_replace(LeaseState::Held);
            self.say(NoticeKind::LeasedAgain, "the daemon is back, and the component is leased again".to_owned());
        }
    }

    fn say(&self, kind: NoticeKind, message: String) {
        let _ = self.notices.try_send(Notice { kind: kind.into(), message });
    }

    /// Asks until a daemon gives the lease, or says that it cannot.
    async fn asked_again(&self) -> Result<Streaming<LoadComponentResponse>, ClientError> {
        let mut pause = PAUSE;
        loop {
            sleep(pause).await;
            match self.ask().await {
                Err(error) if passes(&error) => pause = (2 * pause).min(PAUSE_MAX),
                answered => return answered,
            }
        }
    }

    async fn ask(&self) -> Result<Streaming<LoadComponentResponse>, ClientError> {
        let mut service = self.service.clone();
        let failed = |status| ClientError::from_status(OPERATION, status);
        let call = async {
            let status = service.get_status(GetStatusRequest {}).await.map_err(failed)?.into_inner();
            if status.protocol != PROTOCOL {
                let (socket, version) = (status.socket.into(), status.version);
                return Err(ClientError::OtherProtocol { socket, version, theirs: status.protocol, ours: PROTOCOL });
            }
            Ok(service.load_component(self.request.clone()).await.map_err(failed)?.into_inner())
        };
        let mut stream = Deadline::after(self.patience).bound(OPERATION, call).await?;
        loop {
            let next = async { stream.message().await.map_err(failed) };
            match Deadline::after(self.patience).bound(OPERATION, next).await? {
                Some(LoadComponentResponse { event: Some(Event::Component(_)) }) => return Ok(stream),
                Some(_) => {}
                None => return Err(crate::ProtocolError::NoComponent.into()),
            }
        }
    }
}

/// Whether another attempt may do better.
fn passes(error: &ClientError) -> bool {
    match error {
        ClientError::Connect(ConnectError::WrongOwner { .. } | ConnectError::PathTooLong(_)) => false,
        ClientError::Connect(_) => true,
        // What is not here now is not fetched for a lease on what is mapped already.
        ClientError::Daemon(error) => error.retryable() && error.reason() != Some(ErrorReason::Offline),
        error => error.retryable(),
    }
}

#[cfg(test)]
mod tests {
    use weightsd_proto::v1::{ModelSelector, ResolvedModel};

    use super::*;
    use crate::LoadRequest;

    fn asked_again(request: LoadRequest, model: ResolvedModel) -> ModelSelector {
        let component = v1::Component { id: "ab".repeat(32), model: Some(model), ..v1::Component::default() };
        let again = again(request.message().clone(), &component);
        assert_eq!(again.lease_again, component.id);
        again.model.unwrap()
    }

    #[test]
    fn a_lease_is_asked_for_by_the_commit_and_without_the_hub() {
        let model = ResolvedModel {
            kind: ModelKind::Hub.into(),
            repo: "org/repo".into(),
            commit: "c".repeat(40),
            ..ResolvedModel::default()
        };
        let own = asked_again(LoadRequest::new("org/repo@main", "vae").offline(false), model.clone());
        assert_eq!((own.spec.as_str(), own.revision, own.offline), ("org/repo", "c".repeat(40), true));
        let own = asked_again(LoadRequest::new("org/repo:Q4_K_M", "model"), model);
        assert_eq!((own.spec.as_str(), own.variant.as_str()), ("org/repo", "Q4_K_M"));
        let folder = ResolvedModel { kind: ModelKind::Directory.into(), ..ResolvedModel::default() };
        let own = asked_again(LoadRequest::new("./model", "vae"), folder);
        assert_eq!((own.spec.as_str(), own.revision.as_str()), ("./model", ""));
    }
}

//! The connection to the daemon, and one method for each call of the service.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tonic::{
    Response, Status, Streaming,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;
use weightsd_proto::{
    PROTOCOL,
    v1::{
        AuditRequest, AuditResponse, EvictRequest, EvictResponse, ExplainRequest, ExplainResponse, GetComponentRequest,
        GetComponentResponse, GetStatusRequest, GetStatusResponse, Hold, ListComponentsRequest, ListComponentsResponse,
        ModelSelector, Progress, PullReport, PullRequest, ResolveRequest, ResolveResponse, VerifyReport, VerifyRequest,
        WatchEventsRequest, WatchEventsResponse, pull_response, verify_response,
    },
};

use crate::{
    CardComponent, ClientError, Component, ConnectError, ConnectOptions, LoadRequest, ProtocolError,
    connect::{self, Service},
    deadline::Deadline,
    handoff::HandoffClient,
    load,
    successor::Attempts,
};

/// The most that one message may take. The daemon keeps its own below a mebibyte, except for lists of everything.
const MAX_MESSAGE: usize = 16 << 20;

/// How long work with progress may stay silent. The hub may be slow to give its first answer.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// A connection to the daemon. Clones share it, and it reconnects after the daemon restarted. A call under which the daemon
/// ended is made again to the one that serves then.
#[derive(Debug, Clone)]
pub struct Client {
    service: Service,
    handoff: Arc<HandoffClient>,
    deadline: Duration,
    /// Whether the daemon is another user's: it tells no paths, and files come as descriptors alone.
    is_guest: bool,
}

impl Client {
    /// Connects to the daemon, and checks that it speaks this client's version of the interface.
    ///
    /// # Errors
    /// When nobody serves on the socket, when the daemon does not answer in time, and with
    /// [`ClientError::OtherProtocol`] when it is older or newer than this client can talk to.
    pub async fn connect(options: ConnectOptions) -> Result<Client, ClientError> {
        let ConnectOptions { socket, deadline } = options;
        let path: Arc<Path> = socket.as_path().into();
        let operation = format!("connecting to {}", socket.display());
        let work = async {
            let (channel, is_guest) = channel(path.clone(), deadline).await?;
            let service = Service::new(channel).max_decoding_message_size(MAX_MESSAGE);
            let answer = service.clone().get_status(GetStatusRequest {}).await;
            let GetStatusResponse { version, protocol, .. } =
                answer.map_err(|status| ClientError::from_status(&operation, status))?.into_inner();
            match protocol {
                PROTOCOL => Ok(Client { service, handoff: Arc::new(HandoffClient::new(path)), deadline, is_guest }),
                theirs => Err(ClientError::OtherProtocol { socket, version, theirs, ours: PROTOCOL }),
            }
        };
        Deadline::after(deadline).bound(&operation, work).await
    }

    /// The same connection with another deadline for calls.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Client {
        Client { deadline, ..self }
    }

    /// Loads a component, or joins a load that is under way, and maps its files. `on_progress` is called for every step
    /// the daemon reports.
    ///
    /// # Errors
    /// When the daemon refuses the request, does not answer in time or contradicts itself, or when a file that it lends
    /// cannot be mapped as the file that it should be.
    pub async fn load(
        &self,
        request: LoadRequest,
        mut on_progress: impl FnMut(&Progress),
    ) -> Result<Component, ClientError> {
        let request = if self.is_guest { request.hold(Hold::Stream) } else { request };
        let mut attempts = Attempts::default();
        loop {
            match load::load(self.service(), &self.handoff, request.clone(), &mut on_progress).await {
                Err(error) => attempts.again(error).await?,
                loaded => return loaded,
            }
        }
    }

    /// Loads a component into the memory of the card that the request names, or joins a load that is under way, and takes
    /// the descriptor of that memory. With feature `cuda` it can be mapped from there.
    ///
    /// # Errors
    /// When the request names no card, and when the daemon refuses the request, does not answer in time or contradicts
    /// itself.
    pub async fn load_on_card(
        &self,
        request: LoadRequest,
        on_progress: impl FnMut(&Progress),
    ) -> Result<CardComponent, ClientError> {
        load::load_on_card(self.service(), &self.handoff, request, on_progress).await
    }

    /// The daemon's state.
    ///
    /// # Errors
    /// When the daemon refuses, does not answer in time, or is gone.
    pub async fn status(&self) -> Result<GetStatusResponse, ClientError> {
        self.call(
            "GetStatus",
            GetStatusRequest {},
            |mut service, request| async move { service.get_status(request).await },
        )
        .await
    }

    /// The components in the cache; resident bytes are measured on request, which takes longer.
    pub async fn list(&self, request: ListComponentsRequest) -> Result<ListComponentsResponse, ClientError> {
        self.call(
            "ListComponents",
            request,
            |mut service, request| async move { service.list_components(request).await },
        )
        .await
    }

    /// One component in the cache, by its id or the first digits of it.
    ///
    /// # Errors
    /// When the daemon refuses, does not answer in time, or is gone.
    pub async fn get(&self, id: impl Into<String>) -> Result<GetComponentResponse, ClientError> {
        self.call("GetComponent", GetComponentRequest { id: id.into() }, |mut service, request| async move {
            service.get_component(request).await
        })
        .await
    }

    /// Why a component is loaded or an image kept, how long it stays, and what would push it out.
    ///
    /// # Errors
    /// When the daemon refuses, does not answer in time, or is gone.
    pub async fn explain(&self, id: impl Into<String>) -> Result<ExplainResponse, ClientError> {
        self.call("Explain", ExplainRequest { id: id.into() }, |mut service, request| async move {
            service.explain(request).await
        })
        .await
    }

    /// What a spec means now; see [`selector`](crate::selector) for one that a user has typed.
    pub async fn resolve(&self, model: ModelSelector) -> Result<ResolveResponse, ClientError> {
        self.call("Resolve", ResolveRequest { model: Some(model) }, |mut service, request| async move {
            service.resolve(request).await
        })
        .await
    }

    /// Audits components against their family's catalogue; all of them when `components` is empty.
    ///
    /// # Errors
    /// When the daemon refuses, does not answer in time, or is gone.
    pub async fn audit(&self, model: ModelSelector, components: Vec<String>) -> Result<AuditResponse, ClientError> {
        self.audit_with(AuditRequest { model: Some(model), components, ..AuditRequest::default() }).await
    }

    /// Like `audit`, with a base, an overlay and full lists.
    pub async fn audit_with(&self, request: AuditRequest) -> Result<AuditResponse, ClientError> {
        self.call("Audit", request, |mut service, request| async move { service.audit(request).await }).await
    }

    /// Downloads the files that a model's components need and verifies them. Calls `on_progress` for every step.
    ///
    /// # Errors
    /// When the daemon refuses or is gone, says nothing for longer than the deadline, or ends without a report.
    pub async fn pull(
        &self,
        request: PullRequest,
        mut on_progress: impl FnMut(&Progress),
    ) -> Result<PullReport, ClientError> {
        let patient = self.clone().with_deadline(self.deadline.max(SILENCE_MAX));
        let pull = |mut service: Service, request| async move { service.pull(request).await };
        let mut stream = patient.call("Pull", request, pull).await?;
        while let Some(message) = self.next("Pull", &mut stream).await? {
            match message.event {
                Some(pull_response::Event::Progress(progress)) => on_progress(&progress),
                Some(pull_response::Event::Report(report)) => return Ok(report),
                None => {}
            }
        }
        Err(ProtocolError::NoReport.into())
    }

    /// Compares files with the hashes in their names. Calls `on_progress` for every step.
    ///
    /// # Errors
    /// When the daemon refuses or is gone, says nothing for longer than the deadline, or ends without a report.
    pub async fn verify(
        &self,
        request: VerifyRequest,
        mut on_progress: impl FnMut(&Progress),
    ) -> Result<VerifyReport, ClientError> {
        let verify = |mut service: Service, request| async move { service.verify(request).await };
        let mut stream = self.call("Verify", request, verify).await?;
        while let Some(message) = self.next("Verify", &mut stream).await? {
            match message.event {
                Some(verify_response::Event::Progress(progress)) => on_progress(&progress),
                Some(verify_response::Event::Report(report)) => return Ok(report),
                None => {}
            }
        }
        Err(ProtocolError::NoReport.into())
    }

    async fn next<T>(&self, operation: &str, stream: &mut Streaming<T>) -> Result<Option<T>, ClientError> {
        let next = async { stream.message().await.map_err(|status| ClientError::from_status(operation, status)) };
        Deadline::after(self.deadline.max(SILENCE_MAX)).bound(operation, next).await
    }

    /// Drops components that nobody holds.
    ///
    /// # Errors
    /// When the daemon refuses, does not answer in time, or is gone.
    pub async fn evict(&self, request: EvictRequest) -> Result<EvictResponse, ClientError> {
        self.call("Evict", request, |mut service, request| async move { service.evict(request).await }).await
    }

    /// Past events, then new ones.
    pub async fn watch_events(&self, request: WatchEventsRequest) -> Result<Events, ClientError> {
        let stream = self
            .call("WatchEvents", request, |mut service, request| async move { service.watch_events(request).await })
            .await?;
        Ok(Events { stream, _service: self.service() })
    }

    fn service(&self) -> Service {
        self.service.clone()
    }

    /// Makes a call, and makes it again when the daemon ended under it and another one serves.
    async fn call<Q: Clone, T, F>(
        &self,
        operation: &str,
        request: Q,
        call: impl Fn(Service, Q) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let attempt = || {
            let answer = call(self.service(), request.clone());
            let answer = async { answer.await.map_err(|status| ClientError::from_status(operation, status)) };
            Deadline::after(self.deadline).bound(operation, answer)
        };
        let mut attempts = Attempts::default();
        loop {
            match attempt().await {
                Ok(response) => return Ok(response.into_inner()),
                Err(error) => attempts.again(error).await?,
            }
        }
    }
}

/// The events of a daemon, as they come.
#[derive(Debug)]
pub struct Events {
    stream: Streaming<WatchEventsResponse>,
    /// Keeps the connection under `stream` open when the client is dropped first.
    _service: Service,
}

impl Events {
    /// Waits for the next event; `None` when no more will come. Dropping the future loses no event.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn next(&mut self) -> Result<Option<WatchEventsResponse>, ClientError> {
        self.stream.message().await.map_err(|status| ClientError::from_status("WatchEvents", status))
    }
}

/// The channel, and whether the daemon is another user's.
async fn channel(socket: Arc<Path>, deadline: Duration) -> Result<(Channel, bool), ClientError> {
    // Connect here, where a failure still has its reason. The channel uses this connection first, and connects again by
    // itself when it must.
    let first = connect::open(&socket).await?;
    let is_guest = first.peer_cred()?.uid() != rustix::process::geteuid().as_raw();
    let first = Arc::new(Mutex::new(Some(first)));
    let path = socket.clone();
    let connector = service_fn(move |_: Uri| {
        let ready = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let socket = path.clone();
        async move {
            match ready {
                Some(stream) => Ok::<_, ConnectError>(TokioIo::new(stream)),
                None => connect::open(&socket).await.map(TokioIo::new),
            }
        }
    });
    // Nothing looks the address up. Its host becomes the authority, where HTTP/2 allows no socket path.
    let channel = Endpoint::from_static("http://localhost")
        .connect_timeout(deadline)
        // A page of tensors should not have to wait for the window.
        .initial_stream_window_size(2 << 20)
        .initial_connection_window_size(8 << 20)
        .connect_with_connector(connector)
        .await
        .map_err(|error| ClientError::from_status("connecting", Status::from_error(error.into())))?;
    Ok((channel, is_guest))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_missing_daemon_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let options = ConnectOptions { socket: socket.clone(), ..ConnectOptions::default() };
        let error = Client::connect(options).await.unwrap_err();
        assert!(matches!(&error, ClientError::Connect(ConnectError::Absent(path)) if *path == socket), "{error}");
    }

    #[tokio::test]
    async fn a_silent_daemon_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let _listener = UnixListener::bind(&socket).unwrap();
        let deadline = Duration::from_millis(50);
        let error = Client::connect(ConnectOptions { socket: socket.clone(), deadline }).await.unwrap_err();
        assert_eq!(error.to_string(), format!("connecting to {} took longer than 50ms", socket.display()));
    }
}

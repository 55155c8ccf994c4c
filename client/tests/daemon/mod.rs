//! A daemon of a few lines that speaks both protocols on one socket and lends one component.

#![expect(clippy::disallowed_methods, reason = "a test owns its tasks and threads")]

use std::{
    fs::File,
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::{UnixListener, UnixStream},
    sync::mpsc,
};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status, transport::Server};
use weightsd_client::{ConnectOptions, ErrorReason, Hold, Phase, proto::*};
use weightsd_core::handoff;
use weightsd_proto::{
    prepared, rich_error,
    server::weights_service_server::{WeightsService, WeightsServiceServer},
};
use weightsd_segment::{FileIdentity as Identity, descriptors};

pub(crate) use weightsd_proto::v1::load_component_response::Event as Step;

const TICKET: [u8; 16] = *b"sixteen bytes ok";

struct FakeDaemon {
    files: Arc<Vec<(String, File)>>,
    tensors: Vec<Tensor>,
    lease: mpsc::UnboundedSender<mpsc::Sender<Result<prepared::LoadComponentResponse, Status>>>,
    protocol: u32,
}

/// A component whose load says nothing.
pub(crate) const SILENT: &str = "silent";

type Steps<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl WeightsService for FakeDaemon {
    type LoadComponentStream = Steps<prepared::LoadComponentResponse>;
    type PullStream = Steps<PullResponse>;
    type VerifyStream = Steps<VerifyResponse>;
    type WatchEventsStream = Steps<WatchEventsResponse>;

    async fn load_component(
        &self,
        request: Request<LoadComponentRequest>,
    ) -> Result<Response<Self::LoadComponentStream>, Status> {
        let request = request.into_inner();
        if request.component == SILENT {
            return Ok(Response::new(Box::pin(tokio_stream::pending())));
        }
        if request.component != "vae" {
            let detail = ErrorDetail {
                reason: ErrorReason::ComponentNotFound.into(),
                hint: "it has: vae".into(),
                ..ErrorDetail::default()
            };
            return Err(rich_error::encode(Code::NotFound, "no such component".into(), detail));
        }
        let hold = request.hold();
        let progress = Progress { phase: Phase::Open.into(), file: "a.safetensors".into(), ..Progress::default() };
        let mut steps = vec![Step::Progress(progress), Step::Component(self.component(hold))];
        steps.extend(self.tensors.chunks(300).map(|page| Step::Page(TensorPage { tensors: page.to_vec() })));
        let (sender, receiver) = mpsc::channel(8);
        if hold != Hold::None {
            self.lease.send(sender).unwrap();
        }
        let steps = tokio_stream::iter(steps).map(|step| Ok(step.into()));
        Ok(Response::new(Box::pin(steps.chain(ReceiverStream::new(receiver)))))
    }

    async fn resolve(&self, _: Request<ResolveRequest>) -> Result<Response<ResolveResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn audit(&self, _: Request<AuditRequest>) -> Result<Response<AuditResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn pull(&self, _: Request<PullRequest>) -> Result<Response<Self::PullStream>, Status> {
        let progress = Progress { phase: Phase::Download.into(), ..Progress::default() };
        let report = PullReport { bytes: 5, ..PullReport::default() };
        let steps = [pull_response::Event::Progress(progress), pull_response::Event::Report(report)];
        let steps = steps.map(|event| Ok(PullResponse { event: Some(event) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(steps))))
    }

    async fn verify(&self, _: Request<VerifyRequest>) -> Result<Response<Self::VerifyStream>, Status> {
        let progress = verify_response::Event::Progress(Progress::default());
        let steps = [Ok(VerifyResponse { event: Some(progress) })];
        Ok(Response::new(Box::pin(tokio_stream::iter(steps))))
    }

    async fn list_components(
        &self,
        _: Request<ListComponentsRequest>,
    ) -> Result<Response<ListComponentsResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn get_component(&self, _: Request<GetComponentRequest>) -> Result<Response<GetComponentResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn explain(&self, _: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(GetStatusResponse {
            pid: 7,
            version: "9.9.9".into(),
            protocol: self.protocol,
            ..GetStatusResponse::default()
        }))
    }

    async fn evict(&self, _: Request<EvictRequest>) -> Result<Response<EvictResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn watch_events(&self, _: Request<WatchEventsRequest>) -> Result<Response<Self::WatchEventsStream>, Status> {
        let event = Event { sequence: 1, ..Event::default() };
        let step = Ok(WatchEventsResponse { event: Some(event), skipped: 0 });
        Ok(Response::new(Box::pin(tokio_stream::iter([step]))))
    }
}

impl FakeDaemon {
    fn component(&self, hold: Hold) -> Component {
        let ticket = if hold == Hold::None { Vec::new() } else { TICKET.to_vec() };
        let segment = |(path, file): &(String, File)| {
            let identity = Identity::of_file(file).unwrap();
            let identity = FileIdentity {
                device: identity.device,
                inode: identity.inode,
                length: identity.length,
                modified_ns: identity.modified_ns,
                changed_ns: identity.changed_ns,
            };
            Segment { path: path.clone(), identity: Some(identity), kind: SegmentKind::Checkpoint.into(), card: None }
        };
        Component {
            name: "vae".into(),
            segments: self.files.iter().map(segment).collect(),
            tensor_count: self.tensors.len() as u32,
            lease: Some(Lease { id: 1, ticket, keep_alive: None }),
            ..Component::default()
        }
    }
}

async fn hand_off(mut stream: UnixStream, files: &[(String, File)]) -> io::Result<()> {
    loop {
        let mut request = [0; handoff::REQUEST_LEN];
        stream.read_exact(&mut request).await?;
        let request = handoff::Request::decode(&request).unwrap().unwrap();
        assert_eq!(request.ticket.0, TICKET);
        let reply = handoff::Reply { status: handoff::Status::Granted, count: files.len() as u16 };
        stream.write_all(&reply.encode()).await?;
        for batch in files.chunks(handoff::BATCH) {
            let fds: Vec<_> = batch.iter().map(|(_, file)| file.as_fd()).collect();
            stream.async_io(Interest::WRITABLE, || descriptors::send(stream.as_fd(), &fds, batch.len() as u8)).await?;
            assert_eq!(stream.read_u8().await?, handoff::ACK);
        }
    }
}

/// The other ends of the leases, as they are granted.
pub(crate) type Leases = mpsc::UnboundedReceiver<mpsc::Sender<Result<prepared::LoadComponentResponse, Status>>>;

/// Lends `tensors`, which lie in the files at `paths`, as the component `vae` through a socket in `folder`.
pub(crate) fn serve(folder: &Path, paths: Vec<PathBuf>, tensors: Vec<Tensor>) -> (ConnectOptions, Leases) {
    serve_as(weightsd_proto::PROTOCOL, folder, paths, tensors)
}

/// The same, as a daemon that answers with another number of the interface.
pub(crate) fn serve_as(
    protocol: u32,
    folder: &Path,
    paths: Vec<PathBuf>,
    tensors: Vec<Tensor>,
) -> (ConnectOptions, Leases) {
    let files = paths.iter().map(|path| (path.display().to_string(), File::open(path).unwrap()));
    let files: Arc<Vec<_>> = Arc::new(files.collect());
    let socket = folder.join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let (lease, leases) = mpsc::unbounded_channel();
    let (grpc, incoming) = mpsc::channel::<io::Result<UnixStream>>(8);
    let service = WeightsServiceServer::new(FakeDaemon { files: files.clone(), tensors, lease, protocol });
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(ReceiverStream::new(incoming)));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (grpc, files) = (grpc.clone(), files.clone());
            tokio::spawn(async move {
                let first = stream.async_io(Interest::READABLE, || descriptors::peek_byte(stream.as_fd())).await;
                match first.unwrap() {
                    Some(handoff::MAGIC) => hand_off(stream, &files).await.unwrap_or_default(),
                    _ => grpc.send(Ok(stream)).await.unwrap(),
                }
            });
        }
    });
    (ConnectOptions { socket, deadline: Duration::from_secs(5) }, leases)
}

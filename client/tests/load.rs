//! The client against a daemon of a few lines that speaks both protocols on one socket.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd as _,
    path::Path,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::{UnixListener, UnixStream},
    sync::mpsc,
};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status, transport::Server};
use weightsd_client::{
    Client, ClientError, ConnectOptions, ErrorReason, Handoff, Hold, LoadRequest, Phase, Tree, half::bf16, proto::*,
};
use weightsd_core::handoff;
use weightsd_proto::{
    prepared, rich_error,
    server::weights_service_server::{WeightsService, WeightsServiceServer},
    v1::load_component_response::Event as Step,
};
use weightsd_segment::{FileIdentity as Identity, descriptors};

const TICKET: [u8; 16] = *b"sixteen bytes ok";
const TENSORS: usize = 521;
const SEGMENTS: usize = 3;

struct FakeDaemon {
    files: Arc<Vec<(String, File)>>,
    lease: mpsc::UnboundedSender<mpsc::Sender<Result<prepared::LoadComponentResponse, Status>>>,
}

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
        let names = (0..TENSORS).map(tensor).collect::<Vec<_>>();
        steps.extend(names.chunks(300).map(|page| Step::Page(TensorPage { tensors: page.to_vec() })));
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

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(GetStatusResponse { pid: 7, ..GetStatusResponse::default() }))
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
            Segment { path: path.clone(), identity: Some(identity), kind: SegmentKind::Checkpoint.into() }
        };
        Component {
            name: "vae".into(),
            segments: self.files.iter().map(segment).collect(),
            tensor_count: TENSORS as u32,
            lease: Some(Lease { id: 1, ticket, keep_alive: None }),
            ..Component::default()
        }
    }
}

fn tensor(index: usize) -> Tensor {
    Tensor {
        name: format!("layers.{index:03}.weight"),
        dtype: "BF16".into(),
        shape: vec![2, 4],
        segment: (index % SEGMENTS) as u32,
        offset: 16 * index as u64,
        length: 16,
        ..Tensor::default()
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

type Leases = mpsc::UnboundedReceiver<mpsc::Sender<Result<prepared::LoadComponentResponse, Status>>>;

fn serve(folder: &Path) -> (ConnectOptions, Leases) {
    let files = (0..SEGMENTS).map(|index| {
        let path = folder.join(format!("{index}.safetensors"));
        fs::write(&path, vec![0x3f; 1 << 20]).unwrap();
        (path.display().to_string(), File::open(&path).unwrap())
    });
    let files: Arc<Vec<_>> = Arc::new(files.collect());
    let socket = folder.join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let (lease, leases) = mpsc::unbounded_channel();
    let (grpc, incoming) = mpsc::channel::<io::Result<UnixStream>>(8);
    let service = WeightsServiceServer::new(FakeDaemon { files: files.clone(), lease });
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

#[tokio::test]
async fn a_component_is_mapped_held_noticed_and_let_go() {
    let folder = tempfile::tempdir().unwrap();
    let (options, mut leases) = serve(folder.path());
    let client = Client::connect(options).await.unwrap();
    let mut files = Vec::new();
    let mut vae = client.load(LoadRequest::new("a/b", "vae"), |step| files.push(step.file.clone())).await.unwrap();
    assert_eq!(files, ["a.safetensors"]);
    assert_eq!(vae.tensors().len(), TENSORS);
    assert!(!format!("{:?}", vae.info()).contains("115, 105, 120"), "the ticket must not be printed");

    let tensor = vae.tensor("layers.007.weight").unwrap();
    assert_eq!(tensor.shape(), [2, 4]);
    assert_eq!(tensor.as_slice::<bf16>().unwrap(), [bf16::from_bits(0x3f3f); 8]);
    let tree = vae.unflatten().unwrap();
    let Some(Tree::List(layers)) = tree.get("layers") else { panic!("layers are a list") };
    assert_eq!(layers.len(), TENSORS);

    // The stream is the lease: it carries notices, does not need the client, and ends with the component.
    drop(client);
    let lease = leases.recv().await.unwrap();
    let notice = Notice { kind: NoticeKind::FileChanged.into(), message: "x".into() };
    lease.send(Ok(Step::Notice(notice.clone()).into())).await.unwrap();
    assert_eq!(vae.next_notice().await, Some(notice));
    let tensors = vae.release();
    tokio::time::timeout(Duration::from_secs(5), lease.closed()).await.unwrap();
    assert_eq!(tensors.get("layers.007.weight").unwrap().bytes(), [0x3f; 16]);
}

#[tokio::test]
async fn paths_do_as_well_and_a_changed_file_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let (options, mut leases) = serve(folder.path());
    let client = Client::connect(options).await.unwrap();
    let request = LoadRequest::new("a/b", "vae");
    for request in [request.clone().handoff(Handoff::Path), request.clone().hold(Hold::None)] {
        let mut vae = client.load(request.clone(), |_| {}).await.unwrap();
        assert_eq!(vae.tensors().len(), TENSORS);
        if request.message().hold() == Hold::None {
            assert_eq!(vae.next_notice().await, None);
        }
    }
    leases.recv().await.unwrap();

    // Replaced by rename: the descriptors still are what was lent but for the ctime of the lost name, the paths are not.
    let other = folder.path().join("other");
    fs::write(&other, vec![0; 1 << 20]).unwrap();
    fs::rename(&other, folder.path().join("1.safetensors")).unwrap();
    let error = client.load(request.clone().handoff(Handoff::Path), |_| {}).await.unwrap_err();
    assert!(matches!(&error, ClientError::Map { path, .. } if path.ends_with("1.safetensors")), "{error:?}");
    let _vae = client.load(request, |_| {}).await.unwrap();
}

#[tokio::test]
async fn a_refusal_arrives_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let (options, _leases) = serve(folder.path());
    let client = Client::connect(options).await.unwrap();
    let error = client.load(LoadRequest::new("a/b", "unet"), |_| {}).await.unwrap_err();
    assert_eq!(error.to_string(), "no such component; hint: it has: vae");
    assert_eq!(error.reason(), Some(ErrorReason::ComponentNotFound));
    assert_eq!(client.status().await.unwrap().pid, 7);
    let mut events = client.watch_events(WatchEventsRequest::default()).await.unwrap();
    assert!(events.next().await.unwrap().is_some());
    assert!(events.next().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: run with --release --ignored --nocapture"]
async fn warm_loads_are_fast() {
    let folder = tempfile::tempdir().unwrap();
    let (options, _leases) = serve(folder.path());
    let client = Client::connect(options).await.unwrap();
    let mut times = Vec::new();
    for _ in 0..2000 {
        let start = Instant::now();
        let vae = client.load(LoadRequest::new("a/b", "vae"), |_| {}).await.unwrap();
        times.push(start.elapsed());
        drop(vae);
    }
    times.sort();
    println!("p50 {:?}, p99 {:?}", times[1000], times[1980]);
    assert!(times[1000] < Duration::from_millis(5));
}

#[tokio::test]
async fn long_work_ends_with_a_report_or_with_the_news_that_none_came() {
    let folder = tempfile::tempdir().unwrap();
    let (options, _leases) = serve(folder.path());
    let client = Client::connect(options).await.unwrap();
    let mut phases = Vec::new();
    let report = client.pull(PullRequest::default(), |step| phases.push(step.phase())).await.unwrap();
    assert_eq!((report.bytes, phases), (5, vec![Phase::Download]));
    let error = client.verify(VerifyRequest::default(), |_| {}).await.unwrap_err();
    assert!(matches!(error, ClientError::Protocol(_)), "{error}");
}

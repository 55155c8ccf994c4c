//! The two protocols without the client crate, for what that crate does not do: it keeps tickets to itself, reads
//! streams to their end, and sends nothing wrong.

use std::{
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use tonic::{Status, Streaming, transport::Endpoint};
use weightsd_client::proto::{
    Component, LoadComponentRequest, LoadComponentResponse, Progress, Tensor, load_component_response::Event,
};
use weightsd_core::handoff::{self, ACK, REPLY_LEN, Reply, Ticket};
use weightsd_proto::v1::weights_service_client::WeightsServiceClient;
use weightsd_segment::descriptors;

pub type Service = WeightsServiceClient<tonic::transport::Channel>;

/// The window with which HTTP/2 begins; hyper's own is of megabytes, which no slow reader fills.
const WINDOW: u32 = 65_535;

pub async fn service(socket: &Path) -> Service {
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).unwrap();
    let endpoint = endpoint.initial_stream_window_size(WINDOW).initial_connection_window_size(2 * WINDOW);
    Service::new(endpoint.connect().await.unwrap())
}

/// What came of a load up to its last tensor, and the stream, which is the lease.
pub struct Loaded {
    pub progress: Vec<Progress>,
    pub component: Component,
    pub tensors: Vec<Tensor>,
    pub stream: Streaming<LoadComponentResponse>,
}

impl Loaded {
    pub fn ticket(&self) -> Ticket {
        Ticket::try_from(&*self.component.lease.as_ref().unwrap().ticket).unwrap()
    }
}

pub async fn load(service: &mut Service, request: LoadComponentRequest) -> Result<Loaded, Status> {
    let mut stream = service.load_component(request).await?.into_inner();
    let (mut progress, mut component, mut tensors) = (Vec::new(), None::<Component>, Vec::new());
    while component.as_ref().is_none_or(|component| tensors.len() < component.tensor_count as usize) {
        match stream.message().await?.unwrap().event.unwrap() {
            Event::Progress(step) => {
                assert!(component.is_none(), "progress after the component");
                progress.push(step);
            }
            Event::Component(found) => assert!(component.replace(found).is_none(), "a second component"),
            Event::Page(page) => tensors.extend(page.tensors),
            Event::Notice(notice) => panic!("{notice:?}"),
        }
    }
    Ok(Loaded { progress, component: component.unwrap(), tensors, stream })
}

/// The reply to `request`, on a connection of the hand-off protocol.
pub fn ask(stream: &mut UnixStream, request: &[u8]) -> Reply {
    stream.write_all(request).unwrap();
    let mut reply = [0; REPLY_LEN];
    stream.read_exact(&mut reply).unwrap();
    Reply::decode(&reply).unwrap().unwrap()
}

/// The descriptors that a granting reply announced.
pub fn receive(stream: &mut UnixStream, reply: Reply) -> Vec<OwnedFd> {
    let mut all = Vec::new();
    for expected in handoff::batches(reply.count) {
        let (announced, fds) = descriptors::receive(stream.as_fd(), handoff::BATCH).unwrap();
        assert_eq!((usize::from(announced), fds.len()), (expected, expected));
        all.extend(fds);
        stream.write_all(&[ACK]).unwrap();
    }
    all
}

/// All that comes on a connection until the daemon ends it. That must not take descriptors with it.
pub fn drain(stream: &UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        match descriptors::receive(stream.as_fd(), descriptors::MAX) {
            Ok((byte, fds)) => {
                assert!(fds.is_empty(), "descriptors came after {bytes:02x?}");
                bytes.push(byte);
            }
            // A connection that is closed with something unread is reset.
            Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                return bytes;
            }
            Err(error) => panic!("after {bytes:02x?}: {error}"),
        }
    }
}

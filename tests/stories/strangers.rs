//! Who may not have what the daemon lends: other users, and those without a valid ticket.

use std::{
    env, fs,
    io::{ErrorKind, Read as _, Write as _},
    net::Shutdown,
    os::unix::{fs::PermissionsExt as _, net::UnixStream, process::CommandExt as _},
    path::Path,
    process::Command,
};

use weightsd_client::proto::EventKind;
use weightsd_core::handoff::{MAGIC, REQUEST_LEN, Request, Status, Ticket, VERSION};
use weightsd_segment::FileIdentity;

use crate::{
    harness::{Daemon, Home, PATIENCE, events, leases, until},
    not_run::not_run,
    raw,
};

const REPO: &str = "test/z-image";
const SOCKET: &str = "WEIGHTSD_TEST_STRANGER";
const MARK: &str = "stranger:";
/// `nobody`, by number.
const NOBODY: u32 = 65_534;
/// What an HTTP/2 client says first: preface and empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[tokio::test(flavor = "multi_thread")]
async fn a_process_of_another_user_learns_nothing() {
    if !rustix::process::geteuid().is_root() {
        return not_run("only root can start a process of another user");
    }
    let home = Home::new();
    home.tiny(REPO);
    let daemon = home.daemon();
    let client = daemon.client().await;
    // The other user can run a program in this folder.
    let world = fs::Permissions::from_mode(0o755);
    let folder = tempfile::Builder::new().prefix("wd-world-").permissions(world).tempdir().unwrap();
    let program = folder.path().join("stranger");
    fs::copy(env::current_exe().unwrap(), &program).unwrap();
    copy_libraries(folder.path());
    let stranger = |uid| tell(&program, home.socket().as_path(), uid);

    assert_eq!(stranger(NOBODY), "denied denied", "the folder keeps others out");
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(stranger(NOBODY), "denied denied", "the socket keeps others out");
    fs::set_permissions(home.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    assert!(events(&client, EventKind::Refused).await.is_empty());
    assert_eq!(stranger(NOBODY), "nothing nothing", "the daemon keeps others out");
    let refused = events(&client, EventKind::Refused).await;
    assert_eq!(refused.len(), 2);
    assert!(refused.iter().all(|event| event.message.contains(&format!("uid {NOBODY}"))), "{refused:?}");

    let answers = stranger(0);
    assert!(answers.starts_with("bytes") && answers.ends_with("bytes"), "the daemon's own user is answered: {answers}");
    assert_eq!(events(&client, EventKind::Refused).await.len(), 2);
    let _vae = client.load(home.request(REPO, "transformer"), |_| ()).await.unwrap();
}

/// Copies the libraries of this program that lie in somebody's home, where another user may not read them.
fn copy_libraries(folder: &Path) {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mapped = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).map(Path::new);
    let name = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
    for path in mapped.filter(|path| !path.starts_with("/usr") && !path.starts_with("/lib")) {
        if let Some(name) = name(path).filter(|name| name.starts_with("lib") && name.contains(".so")) {
            fs::copy(path, folder.join(name)).unwrap();
        }
    }
}

/// What a process of that user is told over HTTP/2 and over the hand-off protocol.
fn tell(program: &Path, socket: &Path, uid: u32) -> String {
    let mut command = Command::new(program);
    command.args(["--exact", "strangers::stranger", "--nocapture", "--ignored"]).env(SOCKET, socket).current_dir("/");
    command.env("LD_LIBRARY_PATH", program.parent().unwrap());
    let output = command.uid(uid).gid(uid).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find_map(|line| Some(line.split_once(MARK)?.1));
    line.unwrap_or_else(|| panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr))).to_owned()
}

#[test]
#[ignore = "not a test: a process of another user"]
fn stranger() {
    let Some(socket) = env::var_os(SOCKET) else { return };
    let request = Request { ticket: Ticket([7; 16]) }.encode();
    let told = [PREFACE, request.as_slice()].map(|words| {
        let mut stream = match UnixStream::connect(&socket) {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return "denied",
            Err(error) => panic!("{error}"),
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // Fails when the daemon has hung up already.
        let _ = stream.write_all(words);
        match stream.read(&mut [0; 16]) {
            Ok(0) => "nothing",
            Ok(_) => "bytes",
            Err(error) if error.kind() == ErrorKind::ConnectionReset => "nothing",
            Err(error) => panic!("{error}"),
        }
    });
    println!("{MARK}{}", told.join(" "));
}

/// A daemon, and a load that is held.
async fn held() -> (Home, Daemon, raw::Loaded) {
    let home = Home::new();
    home.tiny(REPO);
    let daemon = home.daemon();
    let mut service = raw::service(daemon.socket()).await;
    let loaded = raw::load(&mut service, home.request(REPO, "transformer").message().clone()).await.unwrap();
    (home, daemon, loaded)
}

/// The daemon hands over the files of a load that is held.
fn assert_granted(stream: &mut UnixStream, loaded: &raw::Loaded) {
    let reply = raw::ask(stream, &Request { ticket: loaded.ticket() }.encode());
    assert_eq!((reply.status, usize::from(reply.count)), (Status::Granted, loaded.component.segments.len()));
    for (fd, segment) in raw::receive(stream, reply).into_iter().zip(&loaded.component.segments) {
        let found = FileIdentity::of_file(&fs::File::from(fd)).unwrap();
        let lent = segment.identity.as_ref().unwrap();
        assert_eq!((found.device, found.inode, found.length), (lent.device, lent.inode, lent.length));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_ticket_of_a_living_lease_gets_descriptors() {
    let (_home, daemon, loaded) = held().await;
    let client = daemon.client().await;
    let mut stream = daemon.connect();
    let mut wrong = loaded.ticket();
    wrong.0[15] ^= 1;
    for wrong in [wrong, Ticket([0; 16]), Ticket([0xff; 16])] {
        let reply = raw::ask(&mut stream, &Request { ticket: wrong }.encode());
        assert_eq!((reply.status, reply.count), (Status::UnknownTicket, 0));
    }
    // The connection is still good, and a ticket does more than once.
    assert_granted(&mut stream, &loaded);
    assert_granted(&mut stream, &loaded);

    let request = Request { ticket: loaded.ticket() }.encode();
    drop(loaded);
    until("the lease ends", async || leases(&client).await == 0).await;
    assert_eq!(client.status().await.unwrap().components, 1, "the component is still there");
    let reply = raw::ask(&mut stream, &request);
    assert_eq!((reply.status, reply.count), (Status::UnknownTicket, 0));
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(raw::drain(&stream).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_gets_a_status_or_nothing() {
    let (_home, daemon, loaded) = held().await;
    let good = Request { ticket: loaded.ticket() }.encode();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = byte;
        bytes
    };
    let status = |status: Status| vec![status as u8, 0, 0, 0];
    let mut table = vec![
        (with(1, VERSION + 1), status(Status::BadVersion)),
        (with(1, 0), status(Status::BadVersion)),
        (vec![MAGIC, 0xff], status(Status::BadVersion)),
        (with(0, 0), Vec::new()),
        (with(0, 0xff), Vec::new()),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), Vec::new()),
        (Vec::new(), Vec::new()),
        // An answer, and then something that is no second request.
        ([with(2, !good[2]), vec![0]].concat(), [status(Status::UnknownTicket), status(Status::Malformed)].concat()),
    ];
    table.extend((1..REQUEST_LEN).map(|length| (good[..length].to_vec(), Vec::new())));
    for (sent, expected) in table {
        let mut stream = daemon.connect();
        stream.write_all(&sent).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(raw::drain(&stream), expected, "{sent:02x?}");
        assert_granted(&mut daemon.connect(), &loaded);
    }
    // These begin like HTTP/2, which answers in its own words.
    for sent in [&b"P"[..], b"PRI * HTTP/2.0\r\n\r\n", b"PLEASE", &PREFACE[..PREFACE.len() - 1]] {
        let mut stream = daemon.connect();
        stream.write_all(sent).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        raw::drain(&stream);
        assert_granted(&mut daemon.connect(), &loaded);
    }
    let client = daemon.client().await;
    until("all connections but two have ended", async || client.status().await.unwrap().connections == 2).await;
    assert_eq!(leases(&client).await, 1);
}

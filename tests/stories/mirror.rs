//! The node's mirror: it answers as the hub does, downloads once for all, opens nothing to strangers, and serves other nodes.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use weightsd_fixtures::hub::{Fault, Hub, On, Side};

use crate::{
    changes::is,
    harness::{Daemon, Home, PATIENCE},
    hubs::{REPO, WEIGHTS, gets, is_file, load, publish_weights, tiny_hub, visible},
};

const TOKEN: &str = "hf_OfTheDaemon";
const OTHER: &str = "hf_OfAClient";
const LENGTH: usize = 3_000_000;

/// A daemon with a mirror, and the mirror's address.
fn mirror_on(home: &Home, endpoint: &Hub, arguments: &[&str], variables: &[(&str, &str)]) -> (Daemon, SocketAddr) {
    let daemon = home.daemon_so(endpoint, &[&["--mirror-listen", "0"], arguments].concat(), variables);
    let log = home.logged("the mirror is at http://");
    let address = log.rsplit("the mirror is at http://").next().unwrap().split_whitespace().next().unwrap();
    (daemon, address.parse().unwrap())
}

/// An answer over HTTP.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Whether all of the promised body came.
    fn is_whole(&self) -> bool {
        self.header("content-length") == self.body.len().to_string()
    }
}

/// Asks, and reads until the other side closes.
fn ask(to: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: mirror\r\nconnection: close\r\n");
    headers.iter().for_each(|(name, value)| request += &format!("{name}: {value}\r\n"));
    stream.write_all(format!("{request}\r\n").as_bytes()).unwrap();
    let mut bytes = Vec::new();
    // A connection that is cut ends with an error.
    let _ = stream.read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or_else(|| panic!("{path}: no answer"));
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let header = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    Answer { status, headers: head.lines().skip(1).filter_map(header).collect(), body: bytes[end + 4..].to_vec() }
}

fn get(to: SocketAddr, path: &str) -> Answer {
    ask(to, "GET", path, &[])
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn weights_at(revision: &str) -> String {
    format!("/{REPO}/resolve/{revision}/{WEIGHTS}")
}

fn address(hub: &Hub) -> SocketAddr {
    hub.endpoint().trim_start_matches("http://").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_answers_as_the_hub_does() {
    let home = Home::new();
    let (hub, fixture) = tiny_hub(&home);
    let (_daemon, mirror) = mirror_on(&home, &hub, &[], &[]);
    let hub_itself = address(&hub);
    for file in &fixture.files {
        let path = format!("/{REPO}/resolve/main/{}", file.path);
        let (theirs, ours) = (ask(hub_itself, "HEAD", &path, &[]), ask(mirror, "HEAD", &path, &[]));
        let etag = |answer: &Answer| match answer.header("x-linked-etag") {
            "" => answer.header("etag").to_owned(),
            linked => linked.to_owned(),
        };
        assert_eq!((ours.status, etag(&ours)), (200, etag(&theirs)), "{path}");
        for header in ["x-repo-commit", "x-linked-size"] {
            assert_eq!(ours.header(header), theirs.header(header), "{path}: {header}");
        }
        assert_eq!(ours.header("content-length"), file.bytes.to_string());
        let content = get(mirror, &path);
        assert_eq!((content.status, content.body.len() as u64), (200, file.bytes), "{path}");
        assert!(content.body == std::fs::read(&file.target).unwrap(), "{path}");
        let part = ask(mirror, "GET", &path, &[("range", "bytes=1-2")]);
        assert_eq!((part.status, part.body.as_slice()), (206, &content.body[1..3]), "{path}");
        assert_eq!(part.header("content-range"), format!("bytes 1-2/{}", file.bytes));
        let beyond = ask(mirror, "GET", &path, &[("range", &format!("bytes={}-", file.bytes))]);
        assert_eq!(beyond.status, 416, "{path}");
    }
    let json = |path: &str| -> serde_json::Value { serde_json::from_slice(&get(mirror, path).body).unwrap() };
    assert_eq!(json(&format!("/api/models/{REPO}"))["sha"], fixture.commit.as_str());
    let listed = json(&format!("/api/models/{REPO}/tree/main?recursive=true"));
    let theirs: serde_json::Value =
        serde_json::from_slice(&get(hub_itself, &format!("/api/models/{REPO}/tree/main?recursive=true")).body).unwrap();
    let files = |listing: &serde_json::Value| -> BTreeMap<String, String> {
        let entries = listing.as_array().unwrap().iter().filter(|entry| entry["type"] == "file");
        entries
            .map(|entry| {
                (entry["path"].to_string(), format!("{} {} {}", entry["oid"], entry["size"], entry["lfs"]["oid"]))
            })
            .collect()
    };
    assert_eq!(files(&listed), files(&theirs));
    for (path, status, code) in [
        (format!("/{REPO}/resolve/main/absent"), 404, "EntryNotFound"),
        (format!("/{REPO}/resolve/absent/config.json"), 404, "RevisionNotFound"),
        ("/org/absent/resolve/main/config.json".to_owned(), 401, "RepoNotFound"),
        (format!("/{REPO}/resolve/main/../../../../etc/passwd"), 404, ""),
        ("/api/datasets/org/x".to_owned(), 404, ""),
    ] {
        let answer = get(mirror, &path);
        assert_eq!((answer.status, answer.header("x-error-code")), (status, code), "{path}");
        let text = String::from_utf8(answer.body).unwrap();
        assert!(!text.contains(home.path().to_str().unwrap()), "{text}");
    }
    assert_eq!(ask(mirror, "POST", &format!("/api/models/{REPO}"), &[]).status, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_clients_cause_one_download() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    let file = publish_weights(&hub, REPO, LENGTH);
    let (_daemon, mirror) = mirror_on(&home, &hub, &[], &[]);
    hub.fault(On::cdn(""), Fault::Slow { bytes_per_second: 3_000_000 });
    let clients: Vec<_> = (0..10).map(|_| thread::spawn(move || get(mirror, &weights_at("main")))).collect();
    for client in clients {
        let answer = client.join().unwrap();
        assert!(answer.status == 200 && answer.body == file, "{}", answer.status);
    }
    for side in [Side::Api, Side::Cdn] {
        assert!(gets(&hub, side).values().all(|count| *count == 1), "{:?}", gets(&hub, side));
    }
    assert_eq!(hub.bytes_sent(Side::Cdn), file.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_download_keeps_its_client_waiting_and_content() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    let file = publish_weights(&hub, REPO, 400_000);
    let (_daemon, mirror) = mirror_on(&home, &hub, &[], &[]);
    hub.fault(On::cdn(""), Fault::Slow { bytes_per_second: 40_000 });
    let mut stream = TcpStream::connect(mirror).unwrap();
    // `huggingface_hub` has ten seconds.
    stream.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
    let request = format!("GET {} HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n", weights_at("main"));
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    assert!(bytes.ends_with(&file));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_right_is_never_sent_whole() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    publish_weights(&hub, REPO, LENGTH);
    let (_daemon, mirror) = mirror_on(&home, &hub, &[], &[]);
    let rule = hub.fault(On::cdn(""), Fault::WrongByte { at: 1_000_000 });
    let answer = get(mirror, &weights_at("main"));
    assert!(!answer.is_whole() && answer.body.len() < 100, "{} bytes", answer.body.len());
    assert!(visible(&home, REPO).iter().all(|name| !name.ends_with(WEIGHTS)));
    rule.remove();
    assert!(get(mirror, &weights_at("main")).is_whole());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_daemon_s_token_opens_is_closed_to_strangers() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    let file = publish_weights(&hub, REPO, 100_000);
    publish_weights(&hub, "org/gated", 1000);
    hub.require_token(REPO, TOKEN);
    hub.gate("org/gated");
    hub.grant("org/gated", TOKEN);
    hub.add_token(OTHER);
    let (daemon, mirror) = mirror_on(&home, &hub, &[], &[("HF_TOKEN", TOKEN)]);
    drop(load(&daemon.client().await, &home, "model").await.unwrap());
    let with = |token: &str, path: &str| ask(mirror, "GET", path, &[("authorization", &bearer(token))]);
    for path in [weights_at("main"), format!("/api/models/{REPO}"), format!("/api/models/{REPO}/tree/main")] {
        for stranger in [get(mirror, &path), with(OTHER, &path), with("hf_madeUp", &path)] {
            assert!(matches!(stranger.status, 401 | 403 | 404), "{path}: {}", stranger.status);
            assert!(!stranger.body.windows(20).any(|window| file.windows(20).any(|it| it == window)));
        }
        assert_eq!(with(TOKEN, &path).status, 200, "{path}");
    }
    assert_eq!(with(TOKEN, &weights_at("main")).body, file);
    let gated = format!("/org/gated/resolve/main/{WEIGHTS}");
    let refused = get(mirror, &gated);
    assert_eq!((refused.status, refused.header("x-error-code")), (403, "GatedRepo"));
    assert_eq!(with(TOKEN, &gated).status, 200);
    // While the hub is away, those whom it let in before are served, and nobody else.
    hub.stop();
    assert_eq!(with(TOKEN, &weights_at("main")).body, file);
    let unknown = get(mirror, &weights_at("main"));
    assert!(unknown.status >= 401, "{}", unknown.status);
    assert!(!home.log().contains(OTHER) && !home.log().contains(TOKEN));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_settings_open_is_everybody_s() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    let file = publish_weights(&hub, REPO, 100_000);
    hub.require_token(REPO, TOKEN);
    let (_daemon, mirror) = mirror_on(&home, &hub, &["--mirror-allow", "org/*"], &[("HF_TOKEN", TOKEN)]);
    assert_eq!(get(mirror, &weights_at("main")).body, file);
    let on_the_hub = hub.seen(&On::hub(""));
    assert!(
        on_the_hub.iter().all(|seen| seen.token() == Some(TOKEN)),
        "nobody's rights were asked for: {on_the_hub:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_is_served_without_the_hub() {
    let (first_home, second_home) = (Home::new(), Home::new());
    let (hub, fixture) = tiny_hub(&first_home);
    let (first, mirror) = mirror_on(&first_home, &hub, &[], &[]);
    drop(load(&first.client().await, &first_home, "vae").await.unwrap());
    for file in &fixture.files {
        get(mirror, &format!("/{REPO}/resolve/main/{}", file.path));
    }
    hub.clear_log();
    let endpoint = format!("http://{mirror}");
    let second = second_home.daemon_so(&hub, &["--hub-endpoint", &endpoint], &[]);
    let client = second.client().await;
    for component in ["vae", "transformer", "text_encoder"] {
        assert!(is(&load(&client, &second_home, component).await.unwrap(), &fixture.written), "{component}");
    }
    let asked: Vec<_> =
        hub.requests().into_iter().map(|seen| seen.path).filter(|path| !path.contains("/revision/")).collect();
    assert!(asked.is_empty(), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_node_opens_nothing_to_strangers() {
    let (first_home, second_home) = (Home::new(), Home::new());
    let hub = Hub::start().unwrap();
    let file = publish_weights(&hub, REPO, 100_000);
    hub.gate(REPO);
    hub.grant(REPO, TOKEN);
    hub.add_token(OTHER);
    let (_first, upstream) = mirror_on(&first_home, &hub, &[], &[("HF_TOKEN", TOKEN)]);
    let endpoint = format!("http://{upstream}");
    let (second, mirror) = mirror_on(&second_home, &hub, &["--hub-endpoint", &endpoint], &[("HF_TOKEN", TOKEN)]);
    assert!(is_file(&load(&second.client().await, &second_home, "model").await.unwrap(), &file));
    let with = |token: &str| ask(mirror, "GET", &weights_at("main"), &[("authorization", &bearer(token))]);
    for stranger in [get(mirror, &weights_at("main")), with(OTHER), with("hf_madeUp")] {
        assert!(matches!(stranger.status, 401 | 403), "{stranger:?}");
    }
    let allowed = with(TOKEN);
    assert!(allowed.status == 200 && allowed.body == file, "{}", allowed.status);
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_it_serves_what_the_snapshot_has() {
    let (home, other_home) = (Home::new(), Home::new());
    // As other programs leave a cache: nobody kept the hub's listing.
    let fixture = home.tiny(REPO);
    let hub = Hub::start().unwrap();
    hub.publish(&fixture, "main");
    let theirs = address(&hub);
    let listing = |at: SocketAddr| -> BTreeMap<String, serde_json::Value> {
        let answer = get(at, &format!("/api/models/{REPO}/tree/main?recursive=true"));
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        let entries: Vec<serde_json::Value> = serde_json::from_slice(&answer.body).unwrap();
        let files = entries.into_iter().filter(|entry| entry["type"] == "file");
        files.map(|entry| (entry["path"].as_str().unwrap().to_owned(), entry)).collect()
    };
    let expected = listing(theirs);
    hub.clear_log();
    let (_daemon, mirror) = mirror_on(&home, &hub, &["--offline", "--mirror-allow", "org/*"], &[]);
    let listed = listing(mirror);
    assert!(expected.len() > 5 && listed.keys().eq(expected.keys()), "{listed:?}");
    for (path, entry) in &listed {
        assert_eq!((&entry["size"], &entry["lfs"]["oid"]), (&expected[path]["size"], &expected[path]["lfs"]["oid"]));
        if entry["lfs"].is_null() {
            assert_eq!(entry["oid"], expected[path]["oid"], "{path}");
        }
    }
    for file in &fixture.files {
        let answer = get(mirror, &format!("/{REPO}/resolve/{}/{}", fixture.commit, file.path));
        assert!(answer.status == 200 && answer.is_whole(), "{}: {}", file.path, answer.status);
        assert!(answer.body == std::fs::read(&file.target).unwrap(), "{}", file.path);
    }
    // Another node gets it from there.
    let endpoint = format!("http://{mirror}");
    let other = other_home.daemon_so(&hub, &["--hub-endpoint", &endpoint], &[]);
    assert!(is(&load(&other.client().await, &other_home, "vae").await.unwrap(), &fixture.written));
    assert!(hub.requests().is_empty(), "{:?}", hub.requests());

    // What is not here is not said to be, and what is damaged is not sent.
    let [gone, damaged] = ["model_index.json", "vae/config.json"].map(|path| fixture.file(path).unwrap());
    std::fs::remove_file(&gone.target).unwrap();
    let content = std::fs::read(&damaged.target).unwrap();
    std::fs::write(&damaged.target, vec![b' '; content.len()]).unwrap();
    let at = |path: &str| get(mirror, &format!("/{REPO}/resolve/{}/{path}", fixture.commit));
    let absent = at(&gone.path);
    assert_eq!((absent.status, absent.header("x-error-code")), (404, "EntryNotFound"));
    let refused = at(&damaged.path);
    assert!(refused.status >= 500 && !refused.body.windows(20).any(|window| window == [b' '; 20]), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allow_list_holds_for_the_mirror_too() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    publish_weights(&hub, REPO, 1000);
    let file = publish_weights(&hub, "org/other", 1000);
    let (daemon, mirror) = mirror_on(&home, &hub, &["--allow", "org/other"], &[]);
    assert_eq!(get(mirror, &weights_at("main")).status, 403);
    assert_eq!(get(mirror, &format!("/org/other/resolve/main/{WEIGHTS}")).body, file);
    let component =
        daemon.client().await.load(crate::hubs::request(&home, "org/other", "model"), |_| ()).await.unwrap();
    assert!(is_file(&component, &file));
}

//! The way to a source: a real forward proxy that wants a password (tinyproxy), hosts that need none, and certificates of a
//! company's own.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

use weightsd_bucket::{Bucket, KEY_ID, SECRET};
use weightsd_client::{ClientError, Component, ErrorReason};
use weightsd_fixtures::hub::Hub;

use crate::{
    harness::{Daemon, Home, eventually},
    hubs::{REPO, is_file, publish_weights, request, weights},
    not_run::not_run,
};

const USER: &str = "worker";
const PASSWORD: &str = "SecretOfThisProxyThatNobodyMaySee";
const IN_BUCKET: &str = "s3://models/language";

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A forward proxy that wants a password.
struct Proxy {
    address: SocketAddr,
    log: std::path::PathBuf,
    _process: Running,
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

impl Proxy {
    /// `None` where tinyproxy is not installed.
    fn start(home: &Home) -> Option<Self> {
        let (port, log) = (free_port(), home.path().join("proxy.log"));
        let config = home.path().join("proxy.conf");
        let text = format!(
            "Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 50\nLogFile \"{}\"\nLogLevel Info\nBasicAuth {USER} {PASSWORD}\n",
            log.display()
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("tinyproxy");
        command.arg("-d").arg("-c").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(child) = command.spawn() else {
            not_run("tinyproxy is not installed (`.ci/tools proxy`)");
            return None;
        };
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        eventually("the proxy listens", || TcpStream::connect(address).is_ok());
        Some(Self { address, log, _process: Running(child) })
    }

    fn url(&self, password: &str) -> String {
        format!("http://{USER}:{password}@{}", self.address)
    }

    /// Requests that it let through.
    fn passed(&self) -> usize {
        fs::read_to_string(&self.log).unwrap_or_default().matches("Established connection to host").count()
    }
}

/// A daemon with this configuration, a hub with one model and a bucket with another.
fn daemon(home: &Home, hub: &Hub, bucket: &Bucket, sections: &str, variables: &[(&str, &str)]) -> Daemon {
    let config = home.path().join("config.toml");
    fs::write(&config, sections.replace("ENDPOINT", &bucket.endpoint())).unwrap();
    let keys = [("AWS_ACCESS_KEY_ID", KEY_ID), ("AWS_SECRET_ACCESS_KEY", SECRET), ("WEIGHTSD_LOG", "trace")];
    let variables = [variables, &keys, &[("WEIGHTSD_CONFIG", config.to_str().unwrap())]].concat();
    home.daemon_so(hub, &["--hub-freshness", "0s"], &variables)
}

async fn load(daemon: &Daemon, home: &Home, model: &str) -> Result<Component, ClientError> {
    daemon.client().await.load(request(home, model, "model"), |_| ()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_source_goes_through_its_own_proxy() {
    let home = Home::new();
    let Some(proxy) = Proxy::start(&home) else { return };
    let (hub, bucket) = (Hub::start().unwrap(), Bucket::start().unwrap());
    let files = [publish_weights(&hub, REPO, 100_000), weights(5, 100_000)];
    bucket.put("language/model.safetensors", files[1].clone());
    bucket.put("language/config.json", b"{}".to_vec());
    let through = format!("proxy = {:?}", proxy.url(PASSWORD));
    // The test hub sends for contents to another address of this machine.
    let hosts = "no_proxy = \"127.0.0.0/8\"";
    // Who goes through the proxy: the hub, the bucket.
    for (sections, expected) in [
        (format!("[source.hub]\n{through}\n[source.s3]\nendpoint = \"ENDPOINT\"\n"), [true, false]),
        (format!("[source.s3]\nendpoint = \"ENDPOINT\"\n{through}\n"), [false, true]),
        (
            format!("[source.hub]\n{through}\n{hosts}\n[source.s3]\nendpoint = \"ENDPOINT\"\n{through}\n{hosts}\n"),
            [false, false],
        ),
    ] {
        let daemon = daemon(&home, &hub, &bucket, &sections, &[]);
        for ((model, file), expected) in [REPO, IN_BUCKET].into_iter().zip(&files).zip(expected) {
            let before = proxy.passed();
            assert!(is_file(&load(&daemon, &home, model).await.unwrap(), file), "{model} {sections}");
            assert_eq!(proxy.passed() > before, expected, "{model} {sections}");
        }
        drop(daemon);
        let _ = fs::remove_dir_all(home.hub_cache());
        let _ = fs::remove_dir_all(home.path().join(".cache"));
    }
    // The environment's counts for sources without one of their own.
    let url = proxy.url(PASSWORD);
    let sections = "[source.s3]\nendpoint = \"ENDPOINT\"\nproxy = \"none\"\n";
    let daemon = daemon(&home, &hub, &bucket, sections, &[("HTTP_PROXY", &url), ("http_proxy", &url)]);
    let before = proxy.passed();
    drop(load(&daemon, &home, IN_BUCKET).await.unwrap());
    assert_eq!(proxy.passed(), before);
    drop(load(&daemon, &home, REPO).await.unwrap());
    assert!(proxy.passed() > before);
    drop(daemon);
    let log = home.log();
    assert!(log.contains("TRACE") && !log.contains(PASSWORD));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_refuses_or_is_away_is_named_and_its_password_is_not() {
    let home = Home::new();
    let Some(proxy) = Proxy::start(&home) else { return };
    let (hub, bucket) = (Hub::start().unwrap(), Bucket::start().unwrap());
    publish_weights(&hub, REPO, 1000);
    bucket.put("language/model.safetensors", weights(5, 1000));
    let nobody = format!("http://{USER}:{PASSWORD}@127.0.0.1:{}", free_port());
    for (url, reason, word) in [
        (format!("http://{}", proxy.address), ErrorReason::HubMalformed, "user and password"),
        // Of a wrong password tinyproxy says 401, as if it were the hub.
        (proxy.url("AnotherSecretThatNobodyMaySee"), ErrorReason::HubMalformed, "user and password"),
        (nobody, ErrorReason::HubUnreachable, "through the proxy"),
    ] {
        let sections =
            format!("[source.hub]\nproxy = {url:?}\n[source.s3]\nendpoint = \"ENDPOINT\"\nproxy = {url:?}\n");
        let daemon = daemon(&home, &hub, &bucket, &sections, &[]);
        let host = url.rsplit(['@', '/']).next().unwrap();
        for model in [REPO, IN_BUCKET] {
            let error = load(&daemon, &home, model).await.unwrap_err();
            let said = format!("{error:?} {error}");
            assert_eq!(error.reason(), Some(reason), "{model}: {said}");
            assert!(said.contains(word) && said.contains(host), "{model}: {said}");
            assert!(!said.contains(PASSWORD) && !said.contains("AnotherSecret"), "{said}");
        }
        drop(daemon);
    }
    assert!(hub.requests().is_empty() && bucket.asked().is_empty());
    let log = home.log();
    assert!(!log.contains(PASSWORD) && !log.contains("AnotherSecret"));
}

/// Makes an authority, and a certificate that it signed.
const CERTIFICATES: &str = "
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=company -keyout authority.key -out authority.pem
    openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout key.pem -out request.pem
    echo subjectAltName=DNS:localhost,IP:127.0.0.1 > extensions
    openssl x509 -req -days 2 -in request.pem -CA authority.pem -CAkey authority.key -CAcreateserial -extfile extensions -out cert.pem
";

/// Stands before the hub with TLS, and speaks to it without.
const TLS: &str = r#"
import socket, ssl, sys, threading
port, upstream, cert, key = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); context.load_cert_chain(cert, key)
listener = socket.create_server(("127.0.0.1", port))
def copy(one, other):
    try:
        while data := one.recv(65536): other.sendall(data)
    except OSError: pass
    finally:
        try: other.shutdown(socket.SHUT_WR)
        except OSError: pass
def serve(raw):
    try: client = context.wrap_socket(raw, server_side=True)
    except OSError: return
    server = socket.create_connection(("127.0.0.1", upstream))
    threading.Thread(target=copy, args=(client, server), daemon=True).start()
    copy(server, client)
while True: threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"#;

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_a_company_count_for_the_source_that_names_them() {
    let home = Home::new();
    let at = |name: &str| home.path().join(name).display().to_string();
    let (key, cert, authority) = (at("key.pem"), at("cert.pem"), at("authority.pem"));
    let made = Command::new("bash").args(["-euc", CERTIFICATES]).current_dir(home.path()).output().unwrap();
    if !made.status.success() {
        return not_run(&format!("openssl makes no certificates (`.ci/tools proxy`): {made:?}"));
    }
    let (hub, bucket, port) = (Hub::start().unwrap(), Bucket::start().unwrap(), free_port());
    let file = publish_weights(&hub, REPO, 1000);
    let upstream = hub.endpoint().rsplit(':').next().unwrap().to_owned();
    let mut tls = Command::new("python3");
    let _tls = Running(tls.args(["-c", TLS, &port.to_string(), &upstream, &cert, &key]).spawn().unwrap());
    eventually("TLS is there", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    let endpoint = format!("hub_endpoint = \"https://localhost:{port}\"\n");
    let without = daemon(&home, &hub, &bucket, &endpoint, &[]);
    let error = load(&without, &home, REPO).await.unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::HubUnreachable), "{error}");
    assert!(format!("{error:?}").to_lowercase().contains("certificate"), "{error:?}");
    drop(without);
    let with = daemon(&home, &hub, &bucket, &format!("{endpoint}[source.hub]\nca_file = {authority:?}\n"), &[]);
    // The test hub sends for large files to an address without TLS, to which nobody follows it.
    let small = with.client().await.resolve(crate::hubs::selector(&home, REPO)).await;
    assert!(small.is_ok(), "{small:?}");
    drop((with, file));
}

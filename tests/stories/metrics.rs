//! Metrics, as Prometheus reads them from the real daemon; and what is written about them.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::Path,
};

use serde_json::Value;

use crate::harness::{Home, PATIENCE, eventually};

const REPO: &str = "test/z-image";

/// The answer to a request: head and body.
fn ask(mut stream: impl Read + Write, request: &str) -> (String, String) {
    write!(stream, "{request} HTTP/1.1\r\nHost: metrics\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// A connection to the port that the daemon's log names.
fn port(home: &Home) -> TcpStream {
    let mut address = String::new();
    eventually("the daemon says where metrics are", || {
        let log = home.log();
        let named = log.lines().find_map(|line| line.split("metrics on http://").nth(1)?.strip_suffix("/metrics"));
        address = named.unwrap_or_default().to_owned();
        !address.is_empty()
    });
    let stream = TcpStream::connect(&address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The names of the samples.
fn names(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(['{', ' ']).next().unwrap().to_owned()).collect()
}

fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
}

fn file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Every query of a board.
fn queries(board: &Value, found: &mut Vec<String>) {
    match board {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(query) if ["expr", "definition"].contains(&name.as_str()) => {
                        found.push(query.clone())
                    }
                    value => queries(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| queries(value, found)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_daemon_serves_is_what_is_documented_and_on_the_board() {
    let home = Home::new();
    home.tiny(REPO);
    let daemon = home.daemon_with(&["--metrics-listen", "127.0.0.1:0"]);
    let client = daemon.client().await;
    let _held = client.load(home.request(REPO, "vae"), |_| ()).await.unwrap();
    let _again = client.load(home.request(REPO, "vae"), |_| ()).await.unwrap();
    client.load(home.request(REPO, "unet"), |_| ()).await.unwrap_err();
    let (head, text) = ask(port(&home), "GET /metrics");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("application/openmetrics-text"), "{head}");
    assert!(text.ends_with("# EOF\n"), "{text}");

    assert_eq!(value(&text, "weightsd_leases"), 2.0);
    assert_eq!(value(&text, "weightsd_components"), 1.0);
    assert_eq!(value(&text, "weightsd_load_seconds_count{road=\"warm\"}"), 1.0);
    assert_eq!(value(&text, "weightsd_load_seconds_count{road=\"cold\"}"), 1.0);
    assert_eq!(value(&text, "weightsd_call_seconds_count{call=\"LoadComponent\"}"), 3.0);
    assert_eq!(value(&text, "weightsd_refusals_total{reason=\"COMPONENT_NOT_FOUND\"}"), 1.0);
    assert_eq!(value(&text, "weightsd_events_total{kind=\"leased\"}"), 2.0);
    assert!(value(&text, "weightsd_tensor_bytes") > 0.0 && value(&text, "process_resident_memory_bytes") > 1e6);
    assert!(value(&text, "process_open_fds") > 3.0 && value(&text, "process_start_time_seconds") > 1.7e9);
    // Nothing that a client says becomes a label.
    assert!(!text.contains(REPO) && !text.contains("vae"), "{text}");

    let served = names(&text);
    let family = |name: &String| {
        let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        histogram.unwrap_or(name).to_owned()
    };
    let page = file("docs/METRICS.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let documented: BTreeSet<String> = rows.map(str::to_owned).collect();
    assert_eq!(documented, served.iter().map(family).collect::<BTreeSet<_>>());

    let mut asked = Vec::new();
    queries(&serde_json::from_str(&file("grafana/weightsd.json")).unwrap(), &mut asked);
    assert!(asked.len() > 15, "{asked:?}");
    let mut shown = BTreeSet::new();
    for query in &asked {
        let words = query.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let of_ours = |word: &&str| word.starts_with("weightsd_") || word.starts_with("process_");
        for word in words.filter(of_ours) {
            assert!(served.contains(word), "the board asks for {word}, which is not served: {query}");
            shown.insert(family(&word.to_owned()));
        }
    }
    assert_eq!(shown, documented, "the board shows every metric");
}

#[test]
fn a_socket_serves_this_user_alone_and_goes_with_the_daemon() {
    let home = Home::new();
    let path = home.path().join("run/metrics.sock");
    let daemon = home.daemon_with(&["--metrics-listen", path.to_str().unwrap()]);
    eventually("metrics are served", || UnixStream::connect(&path).is_ok());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let answer = |request: &str| ask(UnixStream::connect(&path).unwrap(), request);
    assert!(answer("GET /metrics").1.contains("weightsd_leases 0"));
    assert!(answer("GET /").0.starts_with("HTTP/1.1 404 "));
    let (head, _) = answer("POST /metrics");
    assert!(head.starts_with("HTTP/1.1 405 ") && head.to_lowercase().contains("allow: get"), "{head}");
    assert!(daemon.terminate().success());
    assert!(!path.exists());
}

#[test]
fn a_place_that_is_taken_keeps_nobody_from_being_served() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let home = Home::new();
    let address = taken.local_addr().unwrap().to_string();
    let daemon = home.daemon_with(&["--metrics-listen", &address]);
    eventually("it is said", || home.log().contains(&format!("no metrics: cannot listen on {address}")));
    assert!(daemon.terminate().success());
}

#[test]
fn scrapers_that_do_not_read_cost_nobody_else_a_scrape() {
    let home = Home::new();
    let _daemon = home.daemon_with(&["--metrics-listen", "127.0.0.1:0", "--grace", "1s"]);
    // One place is left.
    let silent: Vec<TcpStream> = (0..3).map(|_| port(&home)).collect();
    assert!(ask(port(&home), "GET /metrics").1.contains("weightsd_leases 0"));
    drop(silent);
}

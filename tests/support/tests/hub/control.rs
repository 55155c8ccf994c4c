//! The switches for tests that are not written in Rust.

use std::io::Result;

use crate::{
    LARGE, REPO, SMALL, Scene,
    client::{self, Client, End},
};

#[test]
fn faults_are_ordered_in_json_and_taken_back() -> Result<()> {
    let scene = Scene::new()?;
    let place = scene.cdn()?;
    let mut control = Client::connect(&scene.hub.endpoint())?;
    for order in [
        r#"{"on":{"side":"cdn","path":"vae/","method":"GET"},"fault":{"cut":{"after":1000}},"times":1}"#,
        r#"{"on":{"side":"api"},"fault":{"status":{"status":503,"retry_after":"3"}},"skip":1}"#,
        r#"{"on":{"side":"hub","path":"config"},"fault":"no_etag"}"#,
        r#"{"on":{"side":"hub"},"fault":{"late":{"by_ms":1}}}"#,
        r#"{"fault":{"pages":{"size":1,"next":"stranger"}}}"#,
    ] {
        let answer = control.ask("POST", "/_test/fault", &[], order)?;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(control.ask("POST", "/_test/fault", &[], r#"{"fault":"none"}"#)?.status, 400);
    let cut = client::get(&place)?;
    assert_eq!((cut.body.len(), cut.end), (1000, End::Early));
    assert_eq!(client::head(&scene.file(SMALL))?.header("etag"), None);
    assert!(client::get(&scene.api("/tree/main"))?.header("link").unwrap().contains(&scene.hub.stranger()));
    assert_eq!(client::get(&scene.api(""))?.header("retry-after"), Some("3"));
    assert_eq!(control.ask("DELETE", "/_test/faults", &[], "")?.status, 200);
    assert_eq!(client::get(&scene.api(""))?.status, 200);
    Ok(())
}

#[test]
fn the_log_is_read_and_cleared() -> Result<()> {
    let scene = Scene::new()?;
    client::head(&scene.file(LARGE))?;
    let mut control = Client::connect(&scene.hub.endpoint())?;
    let log = control.ask("GET", "/_test/requests", &[], "")?.json();
    assert_eq!(log.as_array().map(Vec::len), Some(1));
    assert_eq!(
        (&log[0]["side"], &log[0]["status"], &log[0]["method"]),
        (&"resolve".into(), &302.into(), &"HEAD".into())
    );
    assert_eq!(control.ask("POST", "/_test/clear-log", &[], "")?.status, 200);
    assert_eq!(control.ask("GET", "/_test/requests", &[], "")?.json(), serde_json::json!([]));
    Ok(())
}

#[test]
fn branches_are_moved() -> Result<()> {
    let scene = Scene::new()?;
    let second = scene.hub.publish_bytes(REPO, "next", vec![(SMALL, b"second".to_vec())]);
    let order = serde_json::json!({ "repo": REPO, "revision": "main", "commit": second }).to_string();
    assert_eq!(Client::connect(&scene.hub.endpoint())?.ask("POST", "/_test/point", &[], &order)?.status, 200);
    assert_eq!(client::get(&scene.file(SMALL))?.text(), "second");
    Ok(())
}

//! Faults of headers and redirects.

use std::io::Result;

use weightsd_fixtures::hub::{Fault, On};

use crate::{LARGE, SMALL, Scene, client};

#[test]
fn headers_are_missing_or_others() -> Result<()> {
    for (fault, name, value) in [
        (Fault::OtherEtag { etag: "../x".to_owned() }, "x-linked-etag", Some("\"../x\"")),
        (Fault::NoEtag, "x-linked-etag", None),
        (Fault::NoRepoCommit, "x-repo-commit", None),
        (Fault::OtherRepoCommit { commit: "../y".to_owned() }, "x-repo-commit", Some("../y")),
        (Fault::NoLinkedSize, "x-linked-size", None),
        (Fault::OtherLinkedSize { size: "7".to_owned() }, "x-linked-size", Some("7")),
        (Fault::XetHash { hash: "f".repeat(4) }, "x-xet-hash", Some("ffff")),
    ] {
        let scene = Scene::new()?;
        scene.hub.fault(On::resolve(""), fault.clone());
        assert_eq!(client::head(&scene.file(LARGE))?.header(name), value, "{fault:?}");
    }
    Ok(())
}

#[test]
fn etags_are_weak_and_change() -> Result<()> {
    let scene = Scene::new()?;
    let weak = scene.hub.fault(On::resolve(""), Fault::WeakEtag);
    for (path, name) in [(SMALL, "etag"), (LARGE, "x-linked-etag")] {
        let answer = client::head(&scene.file(path))?;
        assert!(answer.header(name).is_some_and(|etag| etag.starts_with("W/\"") && etag.ends_with('"')), "{path}");
    }
    weak.remove();
    scene.hub.fault(On::resolve(SMALL), Fault::OtherEtag { etag: "new".to_owned() }).skip(1);
    assert_ne!(client::head(&scene.file(SMALL))?.header("etag"), Some("\"new\""));
    assert_eq!(client::head(&scene.file(SMALL))?.header("etag"), Some("\"new\""));
    Ok(())
}

#[test]
fn conditions_may_be_ignored() -> Result<()> {
    let scene = Scene::new()?;
    let etag = client::head(&scene.file(SMALL))?.header("etag").unwrap().to_owned();
    scene.hub.fault(On::resolve(""), Fault::IgnoreConditions);
    assert_eq!(client::ask("GET", &scene.file(SMALL), &[("If-None-Match", &etag)])?.status, 200);
    Ok(())
}

#[test]
fn redirects_lead_anywhere() -> Result<()> {
    let scene = Scene::new()?;
    let location = |url: &str| -> Result<(u16, String)> {
        let answer = client::head(url)?;
        Ok((answer.status, answer.header("location").unwrap().to_owned()))
    };
    let elsewhere = Fault::RedirectTo { status: 308, location: "http://192.0.2.1/x".to_owned() };
    scene.hub.fault(On::api(""), elsewhere).times(1);
    assert_eq!(location(&scene.api(""))?, (308, "http://192.0.2.1/x".to_owned()));
    scene.hub.fault(On::resolve(SMALL), Fault::RedirectLoop);
    assert_eq!(location(&scene.file(SMALL))?, (302, "/org/name/resolve/main/config.json".to_owned()));
    scene.hub.fault(On::resolve(LARGE), Fault::SameHostCdn);
    let (_, place) = location(&scene.file(LARGE))?;
    assert!(place.starts_with("http://127.0.0.1:"), "{place}");
    assert_eq!(client::get(&place)?.body, scene.large);
    Ok(())
}

#[test]
fn the_store_behind_a_xet_hash_is_dead() -> Result<()> {
    let scene = Scene::new()?;
    let token = client::get(&scene.api("/xet-read-token/main"))?;
    assert_eq!(token.header("x-xet-cas-url"), token.json()["casUrl"].as_str());
    assert!(client::get(token.header("x-xet-cas-url").unwrap()).is_err());
    Ok(())
}

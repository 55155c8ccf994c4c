//! Who gets what, and what the others get.

use std::io::Result;

use weightsd_fixtures::hub::{Fault, On, Side};

use crate::{LARGE, REPO, SMALL, Scene, client};

fn refused(url: &str, token: Option<&str>) -> Result<(u16, Option<String>, Option<String>)> {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("Authorization", bearer.as_str())).collect();
    let answer = client::ask("GET", url, &headers)?;
    let text = |name| answer.header(name).map(str::to_owned);
    Ok((answer.status, text("x-error-code"), text("x-error-message")))
}

fn code(answer: (u16, Option<String>, Option<String>)) -> (u16, Option<String>) {
    (answer.0, answer.1)
}

#[test]
fn what_is_missing_is_named() -> Result<()> {
    let scene = Scene::new()?;
    let not = |status, code: &str| (status, Some(code.to_owned()));
    let elsewhere = format!("{}/api/models/no/body/revision/main", scene.hub.endpoint());
    assert_eq!(code(refused(&elsewhere, None)?), not(401, "RepoNotFound"));
    assert_eq!(code(refused(&elsewhere, Some("any"))?), not(404, "RepoNotFound"));
    assert_eq!(code(refused(&scene.api("/revision/none"), None)?), not(404, "RevisionNotFound"));
    assert_eq!(code(refused(&scene.api("/tree/none?recursive=true"), None)?), not(404, "RevisionNotFound"));
    assert_eq!(code(refused(&scene.api("/tree/main/nowhere"), None)?), not(404, "EntryNotFound"));
    let file = client::head(&scene.file("none.txt"))?;
    assert_eq!((file.status, file.header("x-error-code")), (404, Some("EntryNotFound")));
    assert_eq!(file.header("x-repo-commit"), Some(scene.commit.as_str()));
    Ok(())
}

#[test]
fn private_repositories_open_to_their_token_alone() -> Result<()> {
    let scene = Scene::new()?;
    scene.hub.require_token(REPO, "mine");
    scene.hub.add_token("another");
    for url in [scene.api("/revision/main"), scene.file(SMALL)] {
        assert_eq!(code(refused(&url, None)?), (401, Some("RepoNotFound".to_owned())));
        let message = Some("Invalid credentials in Authorization header".to_owned());
        assert_eq!(refused(&url, Some("stale"))?, (401, None, message));
        assert_eq!(code(refused(&url, Some("another"))?), (404, Some("RepoNotFound".to_owned())));
        assert_eq!(code(refused(&url, Some("mine"))?), (200, None));
    }
    Ok(())
}

#[test]
fn gated_repositories_are_listed_and_not_read() -> Result<()> {
    let scene = Scene::new()?;
    scene.hub.gate(REPO);
    scene.hub.add_token("other");
    scene.hub.grant(REPO, "accepted");
    assert_eq!(client::get(&scene.api("/tree/main"))?.status, 200);
    let gated = |status| (status, Some("GatedRepo".to_owned()));
    assert_eq!(code(refused(&scene.file(SMALL), None)?), gated(401));
    assert_eq!(code(refused(&scene.file(LARGE), Some("other"))?), gated(403));
    assert_eq!(code(refused(&scene.file(SMALL), Some("accepted"))?), (200, None));
    assert_eq!(client::head(&scene.file(SMALL))?.header("x-repo-commit"), Some(scene.commit.as_str()));
    Ok(())
}

#[test]
fn the_stranger_has_everything_and_sees_every_token() -> Result<()> {
    let scene = Scene::new()?;
    scene.hub.require_token(REPO, "mine");
    scene.hub.fault(On::resolve(LARGE), Fault::RedirectToStranger);
    let redirect = client::ask("GET", &scene.file(LARGE), &[("Authorization", "Bearer mine")])?;
    let place = redirect.header("location").unwrap();
    assert!(redirect.status == 302 && place.starts_with(&scene.hub.stranger()), "{place}");
    assert_eq!(client::ask("GET", place, &[("Authorization", "Bearer mine")])?.body, scene.large);
    assert_eq!(client::get(&format!("{}/elsewhere", scene.hub.stranger()))?.status, 404);
    let seen = scene.hub.seen(&On::stranger(""));
    assert_eq!(seen.iter().map(|seen| seen.token()).collect::<Vec<_>>(), [Some("mine"), None]);
    assert_eq!(scene.hub.bytes_sent(Side::Cdn), 0);
    Ok(())
}

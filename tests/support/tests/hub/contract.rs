//! What clients of the Hub count on.

use std::{error::Error, fs};

use sha2::{Digest, Sha256};
use weightsd_fixtures::{CacheForm, Checkpoint, Contents, Dims, hub::Hub};

use crate::{
    LARGE, REPO, SMALL, Scene,
    client::{self, Client},
};

type Result = std::result::Result<(), Box<dyn Error>>;

/// `printf 'hello\n' | git hash-object --stdin`
const HELLO: &str = "ce013625030ba8dba906f756967f9e9ca394464a";

#[test]
fn a_repository_tells_its_commit_and_files() -> Result {
    let scene = Scene::new()?;
    for rest in ["", "/revision/main", &format!("/revision/{}", scene.commit)] {
        let info = client::get(&scene.api(rest))?.json();
        assert_eq!((info["id"].as_str(), info["sha"].as_str()), (Some(REPO), Some(scene.commit.as_str())));
        assert_eq!(info["siblings"][0]["rfilename"], SMALL);
        assert_eq!(info["siblings"].as_array().map(Vec::len), Some(3));
    }
    let with_blobs = client::get(&scene.api("?blobs=true"))?.json();
    assert_eq!(with_blobs["siblings"][0]["blobId"], HELLO);
    Ok(())
}

#[test]
fn branches_have_slashes_and_move() -> Result {
    let scene = Scene::new()?;
    let hub = &scene.hub;
    let second = hub.publish_bytes(REPO, "feature/x", vec![(SMALL, b"second".to_vec())]);
    assert_ne!(second, scene.commit);
    let sha = |revision: &str| -> std::io::Result<String> {
        Ok(client::get(&scene.api(&format!("/revision/{revision}")))?.json()["sha"].as_str().unwrap().to_owned())
    };
    assert_eq!(sha("feature%2Fx")?, second);
    assert_eq!(sha("main")?, scene.commit);
    hub.point(REPO, "main", &second);
    assert_eq!(sha("main")?, second);
    assert_eq!(client::get(&scene.file(SMALL))?.text(), "second");
    let old = format!("{}/{REPO}/resolve/{}/{SMALL}", hub.endpoint(), scene.commit);
    assert_eq!(client::get(&old)?.text(), "hello\n");
    let refs = client::get(&scene.api("/refs"))?.json();
    assert_eq!(refs["branches"][0]["name"], "feature/x");
    assert_eq!(refs["branches"][1]["targetCommit"], second.as_str());
    Ok(())
}

#[test]
fn small_files_come_from_the_hub() -> Result {
    let scene = Scene::new()?;
    for method in ["HEAD", "GET"] {
        let answer = client::ask(method, &scene.file(SMALL), &[])?;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("etag"), Some(format!("\"{HELLO}\"").as_str()));
        assert_eq!(answer.header("x-repo-commit"), Some(scene.commit.as_str()));
        assert_eq!(answer.header("content-length"), Some("6"));
        assert_eq!(answer.header("accept-ranges"), Some("bytes"));
        assert!(answer.header("x-request-id").is_some());
        assert_eq!(answer.body, if method == "GET" { b"hello\n".as_slice() } else { b"" });
    }
    assert_eq!(client::get(&scene.file("sub/a%20b%23c%3F.txt"))?.text(), "odd");
    Ok(())
}

#[test]
fn large_files_come_from_another_host() -> Result {
    let scene = Scene::new()?;
    let sha256 = hex::encode(Sha256::digest(&scene.large));
    for method in ["HEAD", "GET"] {
        let answer = client::ask(method, &scene.file(LARGE), &[])?;
        assert_eq!(answer.status, 302);
        assert_eq!(answer.header("x-linked-etag"), Some(format!("\"{sha256}\"").as_str()));
        assert_eq!(answer.header("x-linked-size"), Some("10000"));
        assert_eq!(answer.header("x-repo-commit"), Some(scene.commit.as_str()));
        assert!(answer.header("location").is_some_and(|place| place.starts_with(&scene.hub.cdn())));
    }
    let cdn = scene.cdn()?;
    assert!(!cdn.starts_with("http://127.0.0.1:") && scene.hub.endpoint().starts_with("http://127.0.0.1:"));
    let answer = client::get(&cdn)?;
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("10000")));
    assert_eq!(answer.body, scene.large);
    let head = client::head(&cdn)?;
    assert_eq!((head.status, head.header("x-repo-commit"), head.header("x-linked-etag")), (200, None, None));
    assert_eq!(client::get(&format!("{}/repos/0000/x", scene.hub.cdn()))?.status, 404);
    Ok(())
}

#[test]
fn mirrors_send_large_files_themselves() -> Result {
    let scene = Scene::new()?;
    scene.hub.set_lfs_direct(REPO, true);
    let answer = client::get(&scene.file(LARGE))?;
    assert_eq!((answer.status, &answer.body), (200, &scene.large));
    assert_eq!(answer.header("etag").map(str::len), Some(66));
    assert_eq!(answer.header("x-repo-commit"), Some(scene.commit.as_str()));
    Ok(())
}

#[test]
fn small_files_may_take_the_way_through_the_cache() -> Result {
    let scene = Scene::new()?;
    scene.hub.set_resolve_cache(REPO, true);
    let first = client::head(&scene.file("sub/a%20b%23c%3F.txt"))?;
    assert_eq!(first.status, 307);
    let place = first.header("location").unwrap();
    assert!(place.starts_with("/api/resolve-cache/models/org/name/"), "{place}");
    let second = client::get(&format!("{}{place}", scene.hub.endpoint()))?;
    assert_eq!((second.status, second.text()), (200, "odd"));
    assert_eq!(second.header("x-repo-commit"), Some(scene.commit.as_str()));
    assert!(second.header("etag").is_some());
    assert_eq!(client::head(&scene.file(LARGE))?.status, 302);
    Ok(())
}

#[test]
fn ranges_are_kept() -> Result {
    let scene = Scene::new()?;
    let cdn = scene.cdn()?;
    for (range, part) in [("bytes=0-9", 0..10), ("bytes=9990-", 9990..10_000), ("bytes=-7", 9993..10_000)] {
        let answer = client::ask("GET", &cdn, &[("Range", range)])?;
        assert_eq!(answer.status, 206);
        let content_range = format!("bytes {}-{}/10000", part.start, part.end - 1);
        assert_eq!(answer.header("content-range"), Some(content_range.as_str()));
        assert_eq!(answer.body, scene.large[part]);
    }
    let beyond = client::ask("GET", &cdn, &[("Range", "bytes=10000-")])?;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */10000")));
    let changed = client::ask("GET", &cdn, &[("Range", "bytes=5-"), ("If-Range", "\"other\"")])?;
    assert_eq!((changed.status, changed.body.len()), (200, 10_000));
    let small = client::ask("GET", &scene.file(SMALL), &[("Range", "bytes=1-2")])?;
    assert_eq!((small.status, small.text()), (206, "el"));
    Ok(())
}

#[test]
fn what_has_not_changed_is_not_sent() -> Result {
    let scene = Scene::new()?;
    for path in [SMALL, LARGE] {
        let first = client::head(&scene.file(path))?;
        let etag = first.header("x-linked-etag").or(first.header("etag")).unwrap();
        let again = client::ask("GET", &scene.file(path), &[("If-None-Match", etag)])?;
        assert_eq!(again.status, 304);
        assert_eq!(again.header("etag"), Some(etag));
        assert_eq!(again.header("x-repo-commit"), Some(scene.commit.as_str()));
        let other = client::ask("HEAD", &scene.file(path), &[("If-None-Match", "\"other\"")])?;
        assert_eq!(other.status, first.status);
    }
    Ok(())
}

#[test]
fn a_connection_is_kept_for_many_requests() -> Result {
    let scene = Scene::new()?;
    let mut client = Client::connect(&scene.hub.endpoint())?;
    for _ in 0..3 {
        assert_eq!(client.ask("HEAD", "/org/name/resolve/main/config.json", &[], "")?.status, 200);
        assert_eq!(client.ask("GET", "/org/name/resolve/main/config.json", &[], "")?.text(), "hello\n");
        assert_eq!(client.ask("GET", "/org/name/resolve/main/none", &[], "")?.status, 404);
    }
    Ok(())
}

#[test]
fn directories_and_fixtures_are_published_as_they_are() -> Result {
    let folder = tempfile::tempdir()?;
    let hub = Hub::start()?;
    let checkpoint = Checkpoint::new(&Dims::tiny(), Contents::Random { seed: 3 })?;
    checkpoint.write_directory(folder.path().join("plain"))?;
    hub.publish_directory("me/plain", "main", folder.path().join("plain"))?;
    let cache = folder.path().join("cache");
    let fixture = checkpoint.write_hub_cache_as(CacheForm::SharedStore, &cache, "me/cached", "main")?;
    assert_eq!(hub.publish(&fixture, "main"), fixture.commit);

    for repo in ["me/plain", "me/cached"] {
        let tree = client::get(&format!("{}/api/models/{repo}/tree/main?recursive=true", hub.endpoint()))?.json();
        let files = tree.as_array().unwrap().iter().filter(|entry| entry["type"] == "file");
        assert_eq!(files.clone().count(), fixture.files.len());
        for entry in files {
            let file = fixture.file(entry["path"].as_str().unwrap()).expect("it was written");
            let etag = entry["lfs"]["oid"].as_str().or(entry["oid"].as_str());
            assert_eq!((etag, entry["size"].as_u64()), (Some(file.etag.as_str()), Some(file.bytes)));
            let mut answer = client::get(&format!("{}/{repo}/resolve/main/{}", hub.endpoint(), file.path))?;
            if let Some(place) = answer.header("location") {
                answer = client::get(place)?;
            }
            assert_eq!(answer.body, fs::read(&file.target)?, "{}", file.path);
        }
    }
    Ok(())
}

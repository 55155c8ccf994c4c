//! The log, and a hub that comes and goes.

#![expect(clippy::disallowed_methods, reason = "a test owns its tasks and threads")]

use std::{
    io::{ErrorKind, Read, Result, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use weightsd_fixtures::hub::{Fault, On, Side};

use crate::{LARGE, SMALL, Scene, client};

#[test]
fn the_log_says_who_asked_what() -> Result<()> {
    let scene = Scene::new()?;
    let hub = &scene.hub;
    client::ask("GET", &scene.file("sub/a%20b%23c%3F.txt"), &[("Authorization", "Bearer me"), ("X-Odd", "1")])?;
    client::head(&scene.file(LARGE))?;
    let seen = hub.requests();
    assert_eq!((seen[0].method.as_str(), seen[0].side, seen[0].status), ("GET", Side::Resolve, Some(200)));
    assert_eq!(seen[0].path, "/org/name/resolve/main/sub/a b#c?.txt");
    assert_eq!((seen[0].token(), seen[0].headers["x-odd"].as_str(), seen[0].sent), (Some("me"), "1", 3));
    assert_eq!((seen[1].method.as_str(), seen[1].status, seen[1].sent), ("HEAD", Some(302), 0));
    assert!(seen[0].at <= seen[1].at);

    let place = scene.cdn()?;
    client::get(&place)?;
    client::get(&scene.api("/tree/main?recursive=true"))?;
    assert_eq!(client::get(&format!("{}/api/agent-harnesses", hub.endpoint()))?.status, 404);
    assert_eq!((hub.gets_of(LARGE), hub.requests().len()), (1, 2));
    assert_eq!((hub.bytes_sent(Side::Cdn), hub.bytes_sent(Side::Resolve)), (10_000, 0));
    assert_eq!(hub.seen(&On::api("/tree/"))[0].query, "recursive=true");
    hub.clear_log();
    assert!(hub.requests().is_empty());
    Ok(())
}

#[test]
fn a_hub_goes_and_comes_back_to_the_same_ports() -> Result<()> {
    let scene = Scene::new()?;
    let hub = &scene.hub;
    let place = scene.cdn()?;
    hub.fault(On::cdn(""), Fault::Silence).times(1);
    let waiting = thread::spawn({
        let place = place.clone();
        move || client::get(&place).map(|answer| answer.status).map_err(|error| error.kind())
    });
    assert!(hub.wait_for(&On::cdn(""), Duration::from_secs(5)));
    hub.stop();
    assert_eq!(waiting.join().unwrap(), Err(ErrorKind::UnexpectedEof));
    for url in [scene.file(SMALL), place.clone(), hub.stranger()] {
        assert_eq!(client::get(&url).expect_err("nobody listens").kind(), ErrorKind::ConnectionRefused);
    }
    hub.resume()?;
    assert_eq!(client::get(&scene.file(SMALL))?.text(), "hello\n");
    assert_eq!(client::get(&place)?.body, scene.large);
    Ok(())
}

#[test]
fn a_dropped_hub_is_gone() -> Result<()> {
    let scene = Scene::new()?;
    let url = scene.file(SMALL);
    drop(scene);
    assert_eq!(client::get(&url).expect_err("nobody listens").kind(), ErrorKind::ConnectionRefused);
    Ok(())
}

#[test]
fn little_is_under_way_when_a_client_of_a_slow_hub_dies() -> Result<()> {
    let scene = Scene::new()?;
    let hub = &scene.hub;
    hub.publish_bytes("org/name", "main", vec![(LARGE, vec![1; 1 << 20])]);
    let place = scene.cdn()?;
    hub.fault(On::cdn(""), Fault::Slow { bytes_per_second: 200_000 });
    let address = hub.cdn().replace("http://", "");
    let mut stream = TcpStream::connect(address)?;
    let path = place.splitn(4, '/').nth(3).unwrap();
    stream.write_all(format!("GET /{path} HTTP/1.1\r\n\r\n").as_bytes())?;
    let start = Instant::now();
    let mut read = 0;
    let mut buffer = [0; 4096];
    while start.elapsed() < Duration::from_millis(300) {
        read += stream.read(&mut buffer)? as u64;
    }
    let ahead = hub.bytes_sent(Side::Cdn).abs_diff(read);
    drop(stream);
    assert!(ahead < 30_000, "{ahead}");
    assert!((10_000..200_000).contains(&read), "{read}");
    Ok(())
}

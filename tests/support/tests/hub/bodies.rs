//! Faults of bodies, and of the time they take.

use std::{
    io::{self, Result},
    time::{Duration, Instant},
};

use weightsd_fixtures::hub::{Fault, On, Refusal, Side};

use crate::{
    LARGE, SMALL, Scene,
    client::{self, Answer, End},
};

/// A `GET` of the large file under a fault, and the scene it was played in.
fn under(fault: Fault) -> Result<(Scene, Answer)> {
    let scene = Scene::new()?;
    let place = scene.cdn()?;
    scene.hub.fault(On::cdn("vae/"), fault);
    let answer = client::get(&place)?;
    Ok((scene, answer))
}

#[test]
fn bodies_end_early_in_every_way() -> Result<()> {
    for (fault, end, length) in [
        (Fault::Cut { after: 1000 }, End::Early, Some("10000")),
        (Fault::CutChunked { after: 1000 }, End::Whole, None),
        (Fault::CutUntilClose { after: 1000 }, End::Whole, None),
        (Fault::Short { length: 1000 }, End::Whole, Some("1000")),
    ] {
        let (scene, answer) = under(fault.clone())?;
        assert_eq!((answer.status, answer.end), (200, end), "{fault:?}");
        assert_eq!(answer.header("content-length"), length, "{fault:?}");
        assert_eq!(answer.body, scene.large[..1000], "{fault:?}");
        assert_eq!(scene.hub.bytes_sent(Side::Cdn), 1000, "{fault:?}");
    }
    Ok(())
}

#[test]
fn bodies_stall() -> Result<()> {
    let scene = Scene::new()?;
    let place = scene.cdn()?;
    scene.hub.fault(On::cdn(""), Fault::Stall { after: 1000 });
    let answer = client::get_silence(&place)?;
    assert_eq!((answer.end, answer.header("content-length")), (End::Silent, Some("10000")));
    assert_eq!(answer.body, scene.large[..1000]);
    assert_eq!(scene.hub.bytes_sent(Side::Cdn), 1000);
    Ok(())
}

#[test]
fn a_body_that_stalls_goes_on_when_its_rule_is_removed() -> Result<()> {
    let scene = Scene::new()?;
    let place = scene.cdn()?;
    let rule = scene.hub.fault(On::cdn(""), Fault::Stall { after: 1000 });
    let answer = std::thread::scope(|scope| {
        let asking = scope.spawn(|| client::get(&place));
        while scene.hub.bytes_sent(Side::Cdn) < 1000 {
            std::thread::yield_now();
        }
        rule.remove();
        asking.join().expect("the client does not panic")
    })?;
    assert_eq!((answer.end, &answer.body), (End::Whole, &scene.large));
    Ok(())
}

#[test]
fn a_reset_is_one() -> Result<()> {
    let scene = Scene::new()?;
    let place = scene.cdn()?;
    scene.hub.fault(On::cdn(""), Fault::Reset { after: 10 });
    match client::get(&place) {
        Ok(answer) => assert_eq!(answer.end, End::Reset),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
    Ok(())
}

#[test]
fn bodies_are_longer_or_wrong() -> Result<()> {
    let (scene, answer) = under(Fault::Long { extra: 5 })?;
    assert_eq!((answer.header("content-length"), &answer.body[10_000..]), (Some("10005"), b"xxxxx".as_slice()));
    assert_eq!(answer.body[..10_000], scene.large);

    let (scene, answer) = under(Fault::WrongByte { at: 700 })?;
    let wrong: Vec<usize> = (0..10_000).filter(|&at| answer.body[at] != scene.large[at]).collect();
    assert_eq!(wrong, [700]);
    let place = scene.cdn()?;
    let part = client::ask("GET", &place, &[("Range", "bytes=690-709")])?.body;
    assert_ne!(part[10], scene.large[700]);
    assert_eq!(part[11..], scene.large[701..710]);
    assert_eq!(client::ask("GET", &place, &[("Range", "bytes=701-")])?.body, scene.large[701..]);
    Ok(())
}

#[test]
fn slow_bodies_come_evenly() -> Result<()> {
    let start = Instant::now();
    let (scene, answer) = under(Fault::Slow { bytes_per_second: 20_000 })?;
    assert_eq!(answer.body, scene.large);
    assert!(start.elapsed() > Duration::from_millis(450), "{:?}", start.elapsed());
    Ok(())
}

#[test]
fn a_late_answer_comes() -> Result<()> {
    let start = Instant::now();
    let (scene, answer) = under(Fault::Late { by: Duration::from_millis(100) })?;
    assert_eq!(answer.body, scene.large);
    assert!(start.elapsed() >= Duration::from_millis(100));
    Ok(())
}

#[test]
fn some_never_answer_and_some_hang_up() -> Result<()> {
    let scene = Scene::new()?;
    let silence = scene.hub.fault(On::hub(""), Fault::Silence);
    let error = client::get_silence(&scene.api("")).expect_err("nothing comes");
    assert!(matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{error}");
    assert_eq!(scene.hub.requests()[0].status, None);
    silence.remove();
    scene.hub.fault(On::resolve(""), Fault::HangUp).times(1);
    assert_eq!(client::get(&scene.file(SMALL)).expect_err("the end").kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(client::get(&scene.file(SMALL))?.status, 200);
    Ok(())
}

#[test]
fn ranges_go_wrong_in_every_way() -> Result<()> {
    let asked = [("Range", "bytes=100-199")];
    for (fault, status, content_range, part) in [
        (Fault::IgnoreRange, 200, None, 0..10_000),
        (Fault::OtherRange { start: 0 }, 206, Some("bytes 0-199/10000"), 0..200),
        (Fault::ContentRange { value: "bytes 0-99/10000".to_owned() }, 206, Some("bytes 0-99/10000"), 100..200),
        (Fault::Unsatisfiable, 416, Some("bytes */10000"), 0..0),
    ] {
        let scene = Scene::new()?;
        let place = scene.cdn()?;
        scene.hub.fault(On::cdn(""), fault.clone());
        let answer = client::ask("GET", &place, &asked)?;
        assert_eq!((answer.status, answer.header("content-range")), (status, content_range), "{fault:?}");
        assert_eq!(answer.body, scene.large[part], "{fault:?}");
    }
    Ok(())
}

#[test]
fn statuses_say_what_they_are_told() -> Result<()> {
    let scene = Scene::new()?;
    let refusal = Refusal::status(429).retry_after(7).code("Busy").message("slow down");
    scene.hub.fault(On::resolve(SMALL), refusal).times(1);
    let answer = client::get(&scene.file(SMALL))?;
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("7")));
    assert_eq!((answer.header("x-error-code"), answer.header("x-error-message")), (Some("Busy"), Some("slow down")));
    assert_eq!(answer.json()["error"], "slow down");
    assert_eq!(client::get(&scene.file(SMALL))?.status, 200);

    let place = scene.cdn()?;
    scene.hub.fault(On::cdn(""), Refusal::access_denied()).times(1);
    let denied = client::get(&place)?;
    assert!(denied.status == 403 && denied.text().contains("AccessDenied"));
    scene.hub.fault(On::any(""), Refusal::html_page(502));
    let page = client::get(&scene.api(""))?;
    assert_eq!((page.status, page.header("content-type")), (502, Some("text/html")));
    assert_eq!(client::get(&place)?.status, 502);
    Ok(())
}

#[test]
fn a_get_fails_after_a_good_head() -> Result<()> {
    let scene = Scene::new()?;
    let rule = scene.hub.fault(On::resolve("").method("GET"), Fault::status(500));
    assert_eq!(client::head(&scene.file(LARGE))?.status, 302);
    assert_eq!(client::get(&scene.file(LARGE))?.status, 500);
    assert_eq!(rule.hits(), 1);
    Ok(())
}

#[test]
fn faults_come_when_they_are_told_and_add_up() -> Result<()> {
    let scene = Scene::new()?;
    scene.hub.set_lfs_direct("org/name", true);
    let cut = scene.hub.fault(On::resolve("vae/"), Fault::Cut { after: 5 }).skip(1).times(2);
    scene.hub.fault(On::resolve("vae/"), Fault::NoEtag);
    let lengths = (0..5)
        .map(|_| {
            // Without a body there is nothing to cut, and nothing used up.
            assert_eq!(client::head(&scene.file(LARGE))?.status, 200);
            let answer = client::get(&scene.file(LARGE))?;
            assert_eq!(answer.header("etag"), None);
            Ok(answer.body.len())
        })
        .collect::<Result<Vec<_>>>()?;
    assert_eq!((lengths, cut.hits()), (vec![10_000, 5, 5, 10_000, 10_000], 2));
    Ok(())
}

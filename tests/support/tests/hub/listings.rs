//! Listings, as they should be and as they should not.

use std::io::Result;

use serde_json::Value;
use weightsd_fixtures::hub::{Fault, NextPage, On};

use crate::{
    LARGE, REPO, SMALL, Scene,
    client::{self, Client},
};

fn paths(listing: &Value) -> Vec<&str> {
    listing.as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect()
}

#[test]
fn a_tree_has_files_and_folders() -> Result<()> {
    let scene = Scene::new()?;
    let all = client::get(&scene.api("/tree/main?recursive=True&expand=False"))?.json();
    assert_eq!(paths(&all), ["sub", "vae", SMALL, "sub/a b#c?.txt", LARGE]);
    let large = &all[4];
    assert_eq!((large["type"].as_str(), large["size"].as_u64()), (Some("file"), Some(10_000)));
    assert_eq!((large["oid"].as_str().map(str::len), large["lfs"]["oid"].as_str().map(str::len)), (Some(40), Some(64)));
    assert_eq!((large["lfs"]["size"].as_u64(), large["lfs"]["pointerSize"].as_u64()), (Some(10_000), Some(130)));
    assert_eq!(paths(&client::get(&scene.api("/tree/main"))?.json()), ["sub", "vae", SMALL]);
    assert_eq!(paths(&client::get(&scene.api("/tree/main/vae"))?.json()), [LARGE]);
    Ok(())
}

#[test]
fn some_paths_are_asked_for_in_json_or_in_a_form() -> Result<()> {
    let scene = Scene::new()?;
    for body in [r#"{"paths":["config.json","vae","none"]}"#, "paths=config.json&paths=vae&paths=none&expand=False"] {
        let mut client = Client::connect(&scene.hub.endpoint())?;
        let answer = client.ask("POST", &format!("/api/models/{REPO}/paths-info/main"), &[], body)?;
        assert_eq!(paths(&answer.json()), [SMALL, "vae"]);
        assert_eq!(answer.json()[1]["type"], "directory");
    }
    Ok(())
}

#[test]
fn pages_link_to_the_next() -> Result<()> {
    let scene = Scene::new()?;
    scene.hub.fault(On::api("/tree/"), Fault::Pages { size: 2, next: NextPage::Absolute });
    let mut found = Vec::new();
    let mut next = Some(scene.api("/tree/main?recursive=true"));
    let mut pages = 0;
    while let Some(url) = next {
        let answer = client::get(&url)?;
        found.extend(paths(&answer.json()).into_iter().map(str::to_owned));
        next = answer.header("link").map(|link| link.split(['<', '>']).nth(1).unwrap().to_owned());
        assert!(next.as_ref().is_none_or(|next| next.starts_with(&scene.hub.endpoint())));
        pages += 1;
    }
    assert_eq!((pages, found.len()), (3, 5));
    Ok(())
}

#[test]
fn pages_link_to_where_they_should_not() -> Result<()> {
    for next in [NextPage::Relative, NextPage::Stranger, NextPage::Itself] {
        let scene = Scene::new()?;
        scene.hub.fault(On::api("/tree/"), Fault::Pages { size: 2, next });
        let answer = client::get(&scene.api("/tree/main?recursive=true"))?;
        let link = answer.header("link").unwrap();
        match next {
            NextPage::Relative => assert!(link.starts_with("</api/models/"), "{link}"),
            NextPage::Stranger => {
                let url = link.split(['<', '>']).nth(1).unwrap();
                assert!(url.starts_with(&scene.hub.stranger()), "{link}");
                assert_eq!(client::get(url)?.json().as_array().map(Vec::len), Some(2));
            }
            _ => assert!(link.contains("cursor=0>"), "{link}"),
        }
    }
    Ok(())
}

#[test]
fn listings_lie() -> Result<()> {
    for path in ["/abs", "../x", "a//b", r"a\b"] {
        let scene = Scene::new()?;
        scene.hub.fault(On::api(""), Fault::HostilePath { path: path.to_owned() });
        assert!(paths(&client::get(&scene.api("/tree/main?recursive=true"))?.json()).contains(&path));
        assert_eq!(client::get(&scene.api(""))?.json()["siblings"][3]["rfilename"], path);
    }
    let scene = Scene::new()?;
    scene.hub.fault(On::api(""), Fault::TreeSize { path: LARGE.to_owned(), size: 9 });
    let entry = &client::get(&scene.api("/tree/main/vae"))?.json()[0];
    assert_eq!((entry["size"].as_u64(), entry["lfs"]["size"].as_u64()), (Some(9), Some(9)));
    Ok(())
}

#[test]
fn listings_are_no_json_or_half_of_it_or_far_too_much() -> Result<()> {
    let scene = Scene::new()?;
    let under = |fault: Fault| {
        let rule = scene.hub.fault(On::api(""), fault);
        let answer = client::get(&scene.api("/tree/main"));
        rule.remove();
        answer
    };
    let page = under(Fault::NotJson)?;
    assert!(page.status == 200 && serde_json::from_slice::<Value>(&page.body).is_err());
    let half = under(Fault::TruncatedJson)?;
    assert!(half.body.starts_with(b"[{") && serde_json::from_slice::<Value>(&half.body).is_err());
    let huge = under(Fault::HugeJson { bytes: 3_000_000 })?;
    assert!(huge.body.len() > 3_000_000);
    assert_eq!(paths(&huge.json()).len(), 3);
    Ok(())
}

#[test]
fn a_branch_moves_between_two_calls() -> Result<()> {
    let scene = Scene::new()?;
    let second = scene.hub.publish_bytes(REPO, "next", vec![(SMALL, b"second".to_vec())]);
    let moves = Fault::MoveBranch { revision: "main".to_owned(), commit: second.clone() };
    scene.hub.fault(On::api("/revision/main"), moves).times(1);
    assert_eq!(client::get(&scene.api("/revision/main"))?.json()["sha"], scene.commit.as_str());
    assert_eq!(client::get(&scene.api("/revision/main"))?.json()["sha"], second.as_str());
    Ok(())
}

//! A model that is only looked at stays where it is.

use weightsd_client::proto::ModelSelector;
use weightsd_fixtures::{
    Checkpoint, Contents, Dims,
    hub::{Hub, On, Side},
};

use crate::{
    harness::{Home, tiny},
    hubs::{REPO, files_below, gets, load, selector, sent, tiny_hub},
};

#[tokio::test(flavor = "multi_thread")]
async fn resolve_and_audit_of_what_is_not_here_fetch_headers_and_keep_nothing() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    let checkpoint = Checkpoint::new(&Dims::demo(), Contents::Sparse).unwrap();
    let fixture = checkpoint.write_hub_cache(home.path().join("published"), REPO, "main").unwrap();
    hub.publish(&fixture, "main");
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    let answer = client.resolve(selector(&home, REPO)).await.unwrap();
    assert_eq!(answer.model.unwrap().commit, fixture.commit);
    let names: Vec<&str> = answer.components.iter().map(|component| component.name.as_str()).collect();
    assert_eq!(names, ["transformer", "text_encoder", "vae"]);
    for component in &answer.components {
        assert_eq!(component.problem, "");
        let files = fixture.written.weight_files_of(&component.name);
        assert!(component.files.len() == files.len() && component.files.iter().all(|file| !file.present));
        assert!(component.bytes >= checkpoint.component(&component.name).payload_bytes());
    }
    assert_eq!(hub.bytes_sent(Side::Cdn), 0, "no weight file was touched");

    let audit = client.audit(selector(&home, REPO), Vec::new()).await.unwrap();
    assert_eq!(audit.reports.len(), 3);
    assert!(audit.reports.iter().all(|report| report.clean && report.expected > 0), "{audit:?}");
    let ranges = hub.seen(&On::cdn(""));
    assert!(!ranges.is_empty() && ranges.iter().all(|seen| seen.headers.contains_key("range")));
    // 110 MB of weights.
    let shards = fixture.files.iter().filter(|file| file.path.ends_with(".safetensors")).count() as u64;
    assert!(sent(&hub) < shards * 300_000 + 500_000, "{} bytes for {shards} shards", sent(&hub));
    assert_eq!(files_below(&home.hub_cache()), Vec::<String>::new());
    assert_eq!(client.status().await.unwrap().components, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_model_is_recognised_from_afar() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    let mut checkpoint = tiny(1);
    checkpoint.component_mut("vae").remove("decoder.conv_in.bias");
    hub.publish(&checkpoint.write_hub_cache(home.path().join("published"), REPO, "main").unwrap(), "main");
    let daemon = home.daemon_on(&hub, &[]);
    let audit = daemon.client().await.audit(selector(&home, REPO), vec!["vae".into()]).await.unwrap();
    assert!(!audit.reports[0].clean);
    assert_eq!(audit.reports[0].missing_sample, ["decoder.conv_in.bias"]);
    assert_eq!(files_below(&home.hub_cache()), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_is_looked_at_here() {
    let home = Home::new();
    let (hub, _fixture) = tiny_hub(&home);
    let daemon = home.daemon_on(&hub, &[]);
    let client = daemon.client().await;
    drop(load(&client, &home, "vae").await.unwrap());
    hub.clear_log();
    client.audit(selector(&home, REPO), vec!["vae".into()]).await.unwrap();
    let offline = ModelSelector { offline: true, ..selector(&home, REPO) };
    let problems = async |model| {
        let components = client.resolve(model).await.unwrap().components;
        components.into_iter().map(|component| !component.problem.is_empty()).collect::<Vec<_>>()
    };
    assert_eq!(problems(offline.clone()).await, [true, true, false]);
    assert_eq!(hub.requests().len(), 0, "{:?}", gets(&hub, Side::Resolve));
    // The rest is looked at on the hub, and not kept.
    let before = files_below(&home.hub_cache());
    assert_eq!(problems(selector(&home, REPO)).await, [false; 3]);
    let answer = client.resolve(selector(&home, REPO)).await.unwrap();
    let present = answer.components.iter().map(|component| component.files.iter().filter(|file| file.present).count());
    assert_eq!(present.collect::<Vec<_>>(), [0, 0, 1]);
    assert_eq!((files_below(&home.hub_cache()), hub.bytes_sent(Side::Cdn)), (before, 0));
    assert!(client.audit(offline, vec!["transformer".into()]).await.is_err());
    assert!(client.audit(selector(&home, REPO), vec!["transformer".into()]).await.unwrap().reports[0].clean);
    assert!(hub.bytes_sent(Side::Cdn) > 0);
}

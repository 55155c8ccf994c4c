//! Why things are here, how long they stay, and what would push them out; and that a dry run is the plan of the real one.

use weightsd_client::{
    Client, FloatType,
    proto::{DerivedImage, EvictRequest, ExplainResponse},
};

use crate::harness::{Home, leases, until};

const REPO: &str = "test/z-image";

fn ids(images: &[DerivedImage]) -> Vec<&str> {
    images.iter().map(|image| image.component_id.as_str()).collect()
}

async fn explain(client: &Client, id: &str) -> (ExplainResponse, String, String, String) {
    let answer = client.explain(&id[..12]).await.unwrap();
    assert_eq!(answer.id, id);
    let [why, stays, out] = [&answer.why, &answer.stays, &answer.pushed_out_by].map(|sentences| sentences.join("; "));
    (answer, why, stays, out)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_warm_and_computed_explains_itself() {
    let home = Home::new();
    home.tiny(REPO);
    let daemon = home.daemon();
    let client = daemon.client().await;
    let request = home.usual_request(REPO, "vae").client_name("reader");
    let held = client.load(request, |_| ()).await.unwrap();
    let id = held.id().to_owned();
    let (answer, why, stays, out) = explain(&client, &id).await;
    assert!(why.contains(REPO) && why.contains("asked for once"), "{why}");
    assert!(why.contains(&format!("reader ({}) holds it since", std::process::id())), "{why}");
    assert!(why.contains("its tensors were computed"), "{why}");
    assert!(stays.contains("while it is held, and then 10m more") && stays.contains("its image stays"), "{stays}");
    assert!(out.contains("what is held is never dropped"), "{out}");
    assert!(answer.component.is_some() && answer.image.unwrap().loaded && answer.spares.is_none());

    drop(held);
    until("it is let go", async || leases(&client).await == 0).await;
    let (answer, why, stays, out) = explain(&client, &id).await;
    assert!(!why.contains("holds it"), "{why}");
    assert!(stays.contains("unless somebody asks for it: it is still within its keep-alive"), "{stays}");
    assert!(out.contains("`weightsd evict`") && out.contains("a new image of more than"), "{out}");
    assert!(answer.spares.is_some_and(|spares| spares > 0));

    client.evict(EvictRequest::default()).await.unwrap();
    let (answer, _, stays, _) = explain(&client, &id).await;
    assert!(answer.component.is_none() && !answer.image.unwrap().loaded);
    assert!(stays.contains("0 images with 0 B go before it"), "{stays}");

    let output = home.command().args(["explain", &id[..8]]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with(&format!("{} vae of ", &id[..12])), "{said}");
    for title in ["why it is here:", "how long it stays:", "what would push it out:"] {
        assert!(said.contains(title), "{said}");
    }
    let absent = home.command().args(["explain", "0123456789"]).output().unwrap();
    assert_eq!(absent.status.code(), Some(64));
    assert!(String::from_utf8(absent.stderr).unwrap().contains("ls --images"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_is_what_the_real_one_does() {
    let home = Home::new();
    home.tiny(REPO);
    let daemon = home.daemon();
    let client = daemon.client().await;
    let held = client.load(home.usual_request(REPO, "vae"), |_| ()).await.unwrap();
    drop(client.load(home.usual_request(REPO, "transformer"), |_| ()).await.unwrap());
    drop(client.load(home.request(REPO, "transformer").dtype(FloatType::F16), |_| ()).await.unwrap());
    until("two are let go", async || leases(&client).await == 1).await;
    // Images without a component.
    let evicted = client.evict(EvictRequest::default()).await.unwrap();
    assert_eq!(evicted.outcomes.iter().filter(|outcome| outcome.evicted).count(), 2);
    drop(client.load(home.usual_request(REPO, "transformer"), |_| ()).await.unwrap());
    until("it is let go", async || leases(&client).await == 1).await;
    until("the oldest image is known", async || client.status().await.unwrap().oldest_image_used.is_some()).await;

    let all = |dry_run| EvictRequest { images: true, dry_run, ..EvictRequest::default() };
    let planned = client.evict(all(true)).await.unwrap();
    assert_eq!(client.status().await.unwrap().components, 2, "a dry run does nothing");
    let done = client.evict(all(false)).await.unwrap();
    assert_eq!(planned, done);
    assert!(done.images.len() == 2 && !ids(&done.images).contains(&held.id()), "{done:?}");
    assert!(client.evict(all(true)).await.unwrap().images.is_empty());
}

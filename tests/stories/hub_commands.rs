//! The commands that people type, against a hub.

use std::process::{Output, Stdio};

use weightsd_client::proto::EventKind;
use weightsd_fixtures::{
    damage,
    hub::{Fault, On},
};

use crate::{
    harness::{Home, events, until},
    hubs::{REPO, folder, tiny_hub},
};

/// What a command says, whether it succeeds, and on which stream.
fn say(home: &Home, arguments: &[&str]) -> (bool, String, String) {
    let Output { status, stdout, stderr } =
        home.command().env_remove("HF_HUB_OFFLINE").args(arguments).output().unwrap();
    (status.success(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_download_verify_and_tell() {
    let home = Home::new();
    let (hub, fixture) = tiny_hub(&home);
    let daemon = home.daemon_on(&hub, &[]);
    let short = &fixture.commit[..8];
    let good = |arguments: &[&str]| {
        let (success, out, err) = say(&home, arguments);
        assert!(success, "{arguments:?}: {out}{err}");
        out
    };
    let text = good(&["resolve", REPO]);
    assert!(
        text.contains(&fixture.commit) && text.contains("not downloaded") && text.contains("text_encoder"),
        "{text}"
    );
    let text = good(&["pull", REPO, "vae"]);
    assert!(
        text.contains(&format!("{REPO}@{short}")) && text.contains("verified") && text.contains("came in"),
        "{text}"
    );
    assert!(good(&["pull", REPO, "vae"]).contains("all were here"));
    let text = good(&["resolve", REPO]);
    assert!(text.contains("complete") && text.contains("not downloaded"), "{text}");
    let text = good(&["load", REPO, "transformer", "--dtype", "as-stored"]);
    assert!(text.contains("transformer") && text.contains("no byte copied"), "{text}");
    let text = good(&["verify", REPO]);
    assert!(text.contains("0 damaged, 0 missing"), "{text}");
    let text = good(&["status"]);
    assert!(text.contains(&format!("hub: {}", hub.endpoint())) && text.contains("1 components"), "{text}");
    let status: serde_json::Value = serde_json::from_str(&good(&["--json", "status"])).unwrap();
    assert!(status.to_string().contains(&hub.endpoint()), "{status}");

    // A damaged file is said to be, with what to do; and that is what mends it.
    let vae = fixture.file("vae/diffusion_pytorch_model.safetensors").unwrap();
    damage::flip_byte(&folder(&home, REPO).join("blobs").join(&vae.etag), vae.bytes - 9).unwrap();
    let (success, out, _) = say(&home, &["verify", REPO]);
    assert!(!success && out.contains("damaged: vae/") && out.contains("weightsd pull"), "{out}");
    good(&["pull", REPO, "vae"]);
    good(&["verify", REPO, "vae"]);

    // Everybody who asks sees a running download.
    hub.fault(On::cdn("text_encoder"), Fault::Slow { bytes_per_second: 100_000 });
    let mut pull = home.command();
    pull.env_remove("HF_HUB_OFFLINE").args(["pull", REPO, "text_encoder"]).stdout(Stdio::null());
    let mut pull = pull.spawn().unwrap();
    until("it is seen", async || {
        let text = good(&["status"]);
        text.contains(&format!("downloading text_encoder of {REPO}@main")) && text.contains("  text_encoder/")
    })
    .await;
    assert!(pull.wait().unwrap().success());
    assert!(!events(&daemon.client().await, EventKind::Downloaded).await.is_empty());
    assert!(good(&["events"]).contains("text_encoder") || good(&["events"]).contains(REPO));

    let (success, _, err) = say(&home, &["pull", "org/absent"]);
    assert!(!success && err.contains("org/absent") && err.contains("hf auth login"), "{err}");
    let (success, _, err) = say(&home, &["pull", "--offline", REPO]);
    assert!(!success && err.contains("may not be"), "{err}");
    let (success, _, err) = say(&home, &["pull", "."]);
    assert!(!success && err.contains("Hugging Face id"), "{err}");
    hub.stop();
    let (success, _, err) = say(&home, &["load", "org/other", "vae"]);
    assert!(!success && err.contains("cannot be reached"), "{err}");
}

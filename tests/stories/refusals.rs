//! What becomes of a refused request: one line in the log that says whose it was, and an exit code that says who has to
//! act.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use weightsd_client::{Hold, proto::ErrorTier};
use weightsd_fixtures::hub::{Fault, Hub, On, Side};

use crate::{
    harness::{Home, PROGRAM, eventually, tiny, until},
    hubs::{REPO as HUB_REPO, publish_weights},
};

const REPO: &str = "test/z-image";

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_is_one_line_that_names_the_request() {
    let home = Home::new();
    home.tiny(REPO);
    let daemon = home.daemon();
    let client = daemon.client().await;
    let error = client.load(home.request(REPO, "no-such\u{7f}component").hold(Hold::None), |_| ()).await.unwrap_err();
    assert_eq!(error.daemon().unwrap().detail().unwrap().tier(), ErrorTier::Request);
    for component in ["unet", "unet"] {
        client.load(home.request(REPO, component), |_| ()).await.unwrap_err();
    }
    // Each line is written before the next request is answered, and the last one may still be under way.
    let mut log = String::new();
    eventually("three refusals are logged", || {
        log = home.log();
        log.matches("refused: ").count() >= 3
    });
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("refused: ")).collect();
    assert_eq!(lines.len(), 3, "{log}");
    assert!(lines[0].contains("reason=InvalidRequest"), "{}", lines[0]);
    for line in lines {
        for word in ["name=\"LoadComponent\"", &format!("pid={}", std::process::id()), REPO, "component="] {
            assert!(line.contains(word), "{word} is not in {line}");
        }
        assert!(!line.contains('\u{7f}'), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_say_who_has_to_act() {
    let home = Home::new();
    home.tiny(REPO);
    let exit = |arguments: &[&str]| {
        let output = home.command().args(arguments).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    // Nobody serves.
    let (code, text) = exit(&["status"]);
    assert!(code == 69 && text.contains("weightsd serve"), "{code}: {text}");
    let _daemon = home.daemon();
    let empty = home.path().join("empty.safetensors");
    std::fs::create_dir(&empty).unwrap();
    let cases: [(&[&str], i32); 9] = [
        (&["status"], 0),
        (&["--help"], 0),
        (&["stauts"], 64),
        (&["load", REPO, "vae", "--adapter", "x", "--adapter-scale", "1", "--adapter-scale", "2"], 64),
        (&["load", REPO, "unet"], 64),
        (&["resolve", "/nowhere"], 64),
        (&["inspect", "/nowhere"], 64),
        (&["inspect", empty.to_str().unwrap()], 1),
        (&["load", "test/not-here", "vae"], 1),
    ];
    for (arguments, expected) in cases {
        let (code, text) = exit(arguments);
        assert_eq!(code, expected, "{arguments:?}: {text}");
        assert!(expected == 0 || text.contains("hint: ") || text.contains("tip: "), "{arguments:?}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_of_the_shell_that_the_daemon_does_not_see_are_named() {
    let home = Home::new();
    home.tiny(REPO);
    let _daemon = home.daemon();
    let said = |variables: &[(&str, &str)], arguments: &[&str]| {
        let output = home.command().args(arguments).envs(variables.iter().copied()).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let variables = [("HF_ENDPOINT", "https://mirror.example"), ("HF_TOKEN", "hf_sEcReT")];
    let warned = said(&variables, &["resolve", REPO]);
    assert!(warned.contains("warning: HF_ENDPOINT of this shell (https://mirror.example)"), "{warned}");
    assert!(warned.contains("warning: HF_TOKEN of this shell") && warned.contains("hf auth login"), "{warned}");
    assert!(!warned.contains("sEcReT"), "{warned}");
    let model = tiny(2).write_directory(home.path().join("model")).map(|_| home.path().join("model")).unwrap();
    assert_eq!(said(&variables, &["resolve", model.to_str().unwrap()]), "", "a path has nothing to do with the hub");
    assert_eq!(said(&[("HF_ENDPOINT", "https://huggingface.co/")], &["resolve", REPO]), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_may_open_no_more_files_is_told_so() {
    let home = Home::new();
    home.tiny(REPO);
    let _daemon = home.daemon();
    let mut refused = 0;
    // The hard limit too, so that the command cannot raise it.
    for limit in 4..40 {
        let mut command = std::process::Command::new("sh");
        let script = format!(r#"ulimit -n {limit} && exec "$0" load {REPO} transformer"#);
        command.args(["-c", &script, PROGRAM]);
        let output = home.around(command).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            break;
        }
        // With fewer than these the program does not even get to its own code.
        if limit >= 8 {
            assert!(text.contains("ulimit -n"), "{limit}: {text}");
            refused += 1;
        }
    }
    assert!(refused > 0, "no limit was small enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_a_download_with_the_code_of_the_shell_and_says_what_is_kept() {
    let home = Home::new();
    let hub = Hub::start().unwrap();
    publish_weights(&hub, HUB_REPO, 5_000_000);
    hub.fault(On::cdn(""), Fault::Stall { after: 100_000 });
    let _daemon = home.daemon_on(&hub, &["--hub-stall", "1h", "--grace", "1h"]);
    let mut command = home.command();
    command.args(["pull", HUB_REPO]).env_remove("HF_HUB_OFFLINE").stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    until("something came", async || hub.bytes_sent(Side::Cdn) > 0).await;
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(130) && text.contains("is kept"), "{:?}: {text}", output.status);
}

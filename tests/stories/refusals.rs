//! What becomes of a refused request: one line in the log that says whose it was, and an exit code that says who has to
//! act.

use weightsd_client::{Hold, proto::ErrorTier};

use crate::harness::Home;

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
    let log = home.log();
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
    let cases: [(&[&str], i32); 8] = [
        (&["status"], 0),
        (&["--help"], 0),
        (&["stauts"], 64),
        (&["load", REPO, "vae", "--adapter", "x", "--adapter-scale", "1", "--adapter-scale", "2"], 64),
        (&["load", REPO, "unet"], 64),
        (&["resolve", "/nowhere"], 64),
        (&["inspect", "/nowhere"], 64),
        (&["load", "test/not-here", "vae"], 1),
    ];
    for (arguments, expected) in cases {
        let (code, text) = exit(arguments);
        assert_eq!(code, expected, "{arguments:?}: {text}");
        assert!(expected == 0 || text.contains("hint: ") || text.contains("tip: "), "{arguments:?}: {text}");
    }
}

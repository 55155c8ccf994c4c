use std::{fs, path::Path, time::Duration};

use super::{
    facts::{
        ClockFacts, Count, Facts, FolderFacts, FolderState, LimitFacts, Listening, Memory, PlaceFacts, Problem,
        SettingsFacts, UnfinishedFacts,
    },
    finding::{self, Verdict},
    judge::judge,
};

fn golden(name: &str, facts: &Facts, expected: Verdict) {
    let findings = judge(facts);
    assert_eq!(finding::worst(&findings), expected);
    for finding in &findings {
        // Whatever is wrong says what to do, and nothing else does.
        assert_eq!(finding.verdict == Verdict::Ok, finding.advice.is_empty(), "{finding:?}");
    }
    let said = finding::text(&findings) + "\n";
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &said).unwrap();
    }
    let before = fs::read_to_string(&golden).unwrap_or_default();
    // The version changes with each release, and is no text.
    let said = said.replace(env!("CARGO_PKG_VERSION"), "VERSION");
    assert!(said == before.replace(env!("CARGO_PKG_VERSION"), "VERSION"), "{} differs:\n{said}", golden.display());
}

fn there(path: &str) -> FolderFacts {
    let state = FolderState::There { refused: None, is_writable: true, takes_links: Some(true), elsewhere: None };
    FolderFacts { path: path.into(), state, free: Some(500_000_000_000) }
}

fn healthy() -> Facts {
    Facts {
        settings: SettingsFacts::Usable {
            file: Some("/home/ada/.config/weightsd/config.toml".into()),
            others_write: false,
        },
        limits: LimitFacts {
            descriptors: Some(10_240),
            connections: 1024,
            lockable: Some(8 << 20),
            memory: Some(Memory { total: 64 << 30, available: 48 << 30 }),
        },
        places: Some(PlaceFacts {
            socket: "/run/user/1000/weightsd/weightsd.sock".into(),
            socket_folder: None,
            listening: Listening::Daemon {
                pid: 4711,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                is_replaced: false,
            },
            hub_cache: Some(there("/home/ada/.cache/huggingface/hub")),
            own_cache: Some(there("/home/ada/.cache/weightsd")),
            images: Some(there("/home/ada/.cache/weightsd/images")),
            floor: 1_000_000_000,
            clock: ClockFacts { is_plausible: true, skew: Some(Duration::ZERO) },
            unfinished: UnfinishedFacts::default(),
            open_token: None,
        }),
        engine: Ok("MLX 0.32.0, cpu x86_64, build 0123456789abcdef".to_owned()),
    }
}

#[test]
fn of_a_machine_that_is_well() {
    golden("doctor-well.txt", &healthy(), Verdict::Ok);
}

#[test]
fn of_a_machine_on_which_everything_is_wrong() {
    let mut facts = healthy();
    let broken = |path: &str, refused: Option<&str>| {
        let refused = refused.map(str::to_owned);
        let state = FolderState::There { refused, is_writable: false, takes_links: Some(true), elsewhere: None };
        FolderFacts { path: path.into(), state, free: Some(900_000_000) }
    };
    facts.settings = SettingsFacts::Usable { file: Some("/etc/weightsd.toml".into()), others_write: true };
    facts.limits.descriptors = Some(1024);
    facts.limits.memory = Some(Memory { total: 4 << 30, available: 200 << 20 });
    facts.engine = Err(Problem {
        text: "MLX is not on this machine: there is no /usr/lib/libweightsd_mlx.so".to_owned(),
        advice: "install it".to_owned(),
    });
    let places = facts.places.as_mut().unwrap();
    places.socket_folder = Some("`/tmp` has mode 1777, and it must be the user's".to_owned());
    places.listening = Listening::Silent(Duration::from_secs(3));
    places.hub_cache = Some(broken("/mnt/hub", None));
    places.own_cache = None;
    places.images = Some(broken("/dev/shm/weightsd", Some("`/dev/shm/weightsd` belongs to uid 0, not to 1000")));
    places.clock.is_plausible = false;
    places.unfinished = UnfinishedFacts {
        downloads: Count { files: 2, bytes: 3_000_000_000 },
        images: Count { files: 1, bytes: 70_000_000 },
    };
    places.open_token = Some("/home/ada/.cache/huggingface/token".into());
    golden("doctor-ill.txt", &facts, Verdict::Fail);
}

#[test]
fn of_a_machine_with_things_to_look_at() {
    let mut facts = healthy();
    let places = facts.places.as_mut().unwrap();
    places.listening = Listening::Stale;
    let FolderFacts { state: FolderState::There { elsewhere, .. }, .. } = places.hub_cache.as_mut().unwrap() else {
        panic!("it is there")
    };
    *elsewhere = Some("/home/ada/.cache/huggingface/hub/models--org--repo/blobs".into());
    let below = "/home/ada/.cache".into();
    let state = FolderState::Absent { below, is_writable: true };
    places.own_cache.as_mut().unwrap().state = state.clone();
    places.images = Some(FolderFacts { state, free: Some(12_000_000_000), ..there("/home/ada/images") });
    places.clock.skew = Some(Duration::from_secs(90));
    places.unfinished.downloads = Count { files: 1, bytes: 5_000_000 };
    golden("doctor-warned.txt", &facts, Verdict::Warn);
    let nobody = |listening| {
        let mut facts = healthy();
        facts.places.as_mut().unwrap().listening = listening;
        finding::text(&judge(&facts))
    };
    let other = |version: &str, is_replaced| Listening::Daemon { pid: 1, version: version.to_owned(), is_replaced };
    for (listening, words) in [
        (Listening::Nobody, "weightsd install"),
        (other("0.0.0", false), "this program is"),
        (other("0.0.0", true), "was replaced"),
        (Listening::Failing("no protocol".to_owned()), "update the older"),
    ] {
        let said = nobody(listening);
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn settings_that_cannot_be_used_leave_the_rest_to_be_told() {
    let problem = Problem { text: "line 2 sets `x`".to_owned(), advice: "leave it out".to_owned() };
    let facts = Facts { settings: SettingsFacts::Unusable(problem), places: None, ..healthy() };
    golden("doctor-settings.txt", &facts, Verdict::Fail);
}

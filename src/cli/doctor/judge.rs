//! What the facts mean, and what to do about them.

use std::path::Path;

use super::{
    super::output::bytes,
    facts::{ClockFacts, Facts, FolderFacts, FolderState, LimitFacts, Listening, PlaceFacts, SettingsFacts},
    finding::Finding,
};

/// Descriptors that a daemon needs besides its connections: shards, images, locks.
const DESCRIPTORS: u64 = 1024;
/// Bytes that a computation takes, and a little more.
const MEMORY: u64 = 1 << 30;
/// Free bytes beyond the floor below which the next model may not fit.
const ROOM: u64 = 25_000_000_000;
/// Skew that programs which compare times notice.
const SKEW_MAX: std::time::Duration = std::time::Duration::from_secs(2);

/// Judges all facts, in the order in which a reader would look.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![settings(&facts.settings)];
    findings.extend(limits(&facts.limits));
    if let Some(places) = &facts.places {
        findings.extend(daemon(places));
        findings.extend(folders(places));
        findings.push(clock(places.clock));
        findings.extend(rest(places));
    }
    findings.push(match &facts.engine {
        Ok(engine) => Finding::ok("mlx", engine),
        Err(problem) => Finding::warn(
            "mlx",
            format!("nothing can be computed: {}", problem.text),
            format!("{}; what needs no computing is lent all the same", problem.advice),
        ),
    });
    findings
}

fn settings(facts: &SettingsFacts) -> Finding {
    const CHECK: &str = "settings";
    match facts {
        SettingsFacts::Usable { file: None, .. } => Finding::ok(CHECK, "no configuration file"),
        SettingsFacts::Usable { file: Some(file), others_write: false } => Finding::ok(CHECK, shown(file)),
        SettingsFacts::Usable { file: Some(file), others_write: true } => {
            let path = shown(file);
            Finding::warn(CHECK, format!("others may write to {path}"), format!("`chmod go-w '{path}'`"))
        }
        SettingsFacts::Unusable(problem) => Finding::fail(CHECK, &problem.text, &problem.advice),
    }
}

fn limits(facts: &LimitFacts) -> Vec<Finding> {
    let wanted = facts.connections + DESCRIPTORS;
    let descriptors = match facts.descriptors {
        Some(limit) if limit < wanted => Finding::warn(
            "descriptors",
            format!("{limit} files may be open, and {} connections are allowed", facts.connections),
            format!("raise the limit (`ulimit -n {wanted}`, LimitNOFILE in the unit) or lower `connections`"),
        ),
        Some(limit) => Finding::ok("descriptors", format!("{limit} files may be open")),
        None => Finding::ok("descriptors", "any number of files may be open"),
    };
    // Nothing is locked today; the number helps those who ask.
    let lockable = Finding::ok(
        "memlock",
        match facts.lockable {
            Some(limit) => format!("{} may be locked in memory (weights are not locked)", bytes(limit)),
            None => "any number of bytes may be locked in memory (weights are not locked)".to_owned(),
        },
    );
    let memory = facts.memory.map(|memory| {
        let found = format!("{} of {} available", bytes(memory.available), bytes(memory.total));
        match memory.available < MEMORY {
            true => Finding::warn(
                "memory",
                found,
                "computing takes about half a gigabyte, and weights are read from the disk each time: end other programs",
            ),
            false => Finding::ok("memory", found),
        }
    });
    [descriptors, lockable].into_iter().chain(memory).collect()
}

/// The socket, and the versions on both sides of it.
fn daemon(facts: &PlaceFacts) -> Vec<Finding> {
    let socket = shown(&facts.socket);
    let ours = env!("CARGO_PKG_VERSION");
    let mut findings = Vec::new();
    if let Some(problem) = &facts.socket_folder {
        let advice = "`chmod 700` it, or name a socket in a folder of your own with `--socket`";
        findings.push(Finding::fail("socket", problem, advice));
    }
    let listening = match &facts.listening {
        Listening::Nobody => Finding::warn(
            "daemon",
            format!("nobody serves on {socket}"),
            "start one with `weightsd serve`, or have the system start it: `weightsd install`",
        ),
        Listening::Stale => Finding::warn(
            "daemon",
            format!("{socket} is left from a daemon that is gone"),
            "start one: `weightsd serve` replaces the socket",
        ),
        Listening::Silent(time) => Finding::fail(
            "daemon",
            format!("the daemon on {socket} does not answer within {time:?}"),
            "see its log; `kill -TERM` ends it within its grace period",
        ),
        Listening::Failing(problem) => Finding::fail(
            "daemon",
            format!("{socket}: {problem}"),
            "update the older of the two programs, and restart the daemon",
        ),
        Listening::Daemon { pid, version, is_replaced: true } => Finding::warn(
            "daemon",
            format!("weightsd {version} (pid {pid}) runs, and its program was replaced since"),
            "restart it: it starts its workers from the program that is there now",
        ),
        Listening::Daemon { pid, version, is_replaced: false } if version != ours => Finding::warn(
            "daemon",
            format!("weightsd {version} (pid {pid}) serves, and this program is {ours}"),
            "restart the daemon from this program",
        ),
        Listening::Daemon { pid, version, is_replaced: false } => Finding::ok(
            "daemon",
            format!("weightsd {version} (pid {pid}) serves on {socket}; this program is the same"),
        ),
    };
    findings.push(listening);
    findings
}

fn folders(facts: &PlaceFacts) -> Vec<Finding> {
    let floor = facts.floor;
    let mut findings = vec![match &facts.hub_cache {
        Some(cache) => folder("hub cache", cache),
        None => Finding::warn("hub cache", "no Hugging Face cache is known", "set `hub_cache`, or HOME"),
    }];
    findings.push(match &facts.own_cache {
        Some(folder_facts) => folder("own cache", folder_facts),
        None => Finding::warn(
            "own cache",
            "there is no folder for what weightsd keeps, so nothing is computed and files are hashed again",
            "set `own_cache`, or HOME",
        ),
    });
    findings.extend(facts.images.as_ref().map(|images| folder("images", images)));
    for (check, place) in [("hub disk", &facts.hub_cache), ("image disk", &facts.images)] {
        findings.extend(place.as_ref().and_then(|place| room(check, place, floor)));
    }
    findings
}

/// A folder that the daemon writes to.
fn folder(check: &'static str, facts: &FolderFacts) -> Finding {
    let path = shown(&facts.path);
    match &facts.state {
        FolderState::Absent { is_writable: true, .. } => Finding::ok(check, format!("{path} (made when it is needed)")),
        FolderState::Absent { below, is_writable: false } => Finding::fail(
            check,
            format!("{path} is not there, and cannot be made"),
            format!("make `{}` writable for this user, or name another folder in the settings", shown(below)),
        ),
        FolderState::Hidden(problem) => {
            Finding::fail(check, format!("{path}: {problem}"), "let this user into the folders above it")
        }
        FolderState::There { refused: Some(problem), .. } => Finding::fail(
            check,
            problem,
            "name a folder of your own in the settings, or take this one from others (`chown`, `chmod 700`)",
        ),
        FolderState::There { is_writable: false, .. } => Finding::fail(
            check,
            format!("{path} cannot be written to"),
            "make it writable for this user: downloads and images go there",
        ),
        FolderState::There { elsewhere: Some(elsewhere), .. } => Finding::warn(
            check,
            format!("{} lies on another disk than {path}", shown(elsewhere)),
            "its free space is not the one below: look at that disk, too",
        ),
        FolderState::There { takes_links: Some(false), .. } => Finding::warn(
            check,
            format!("no links can be made in {path}"),
            "snapshots hold whole files there, and each commit takes its own space: move the cache to another disk",
        ),
        FolderState::There { .. } => Finding::ok(check, path),
    }
}

fn room(check: &'static str, facts: &FolderFacts, floor: u64) -> Option<Finding> {
    let free = facts.free?;
    let found = format!("{} free, {} of them stay free", bytes(free), bytes(floor));
    Some(match free {
        _ if free <= floor => {
            Finding::fail(check, found, "make room, or lower `free_space`: downloads and computing are refused now")
        }
        _ if free - floor < ROOM => Finding::warn(
            check,
            found,
            "a large model may not fit: make room, or delete what was computed with `weightsd evict --images`",
        ),
        _ => Finding::ok(check, found),
    })
}

fn clock(facts: ClockFacts) -> Finding {
    match facts {
        ClockFacts { is_plausible: false, .. } => Finding::fail(
            "clock",
            "this machine's time is before this program was written",
            "set the clock: connections to the hub are refused with a wrong one",
        ),
        ClockFacts { skew: Some(skew), .. } if skew > SKEW_MAX => Finding::warn(
            "clock",
            format!("the disk of weightsd's own folder is {skew:.1?} off this machine's time"),
            "synchronise both clocks: an image that is used seems unused, or the reverse",
        ),
        ClockFacts { .. } => Finding::ok("clock", "agrees with the disk"),
    }
}

/// Unfinished files, and the token.
fn rest(facts: &PlaceFacts) -> Vec<Finding> {
    const CHECK: &str = "unfinished";
    let (downloads, images) = (facts.unfinished.downloads, facts.unfinished.images);
    let unfinished = match (downloads.files, images.files) {
        (0, 0) => Finding::ok(CHECK, "nothing is left half-written"),
        (0, _) => Finding::warn(
            CHECK,
            format!("{} images that nobody writes, {}", images.files, bytes(images.bytes)),
            "the daemon deletes them at its next start",
        ),
        (_, 0) => Finding::warn(CHECK, downloads_left(facts), DOWNLOADS_ADVICE),
        (_, _) => Finding::warn(
            CHECK,
            format!("{}; {} images that nobody writes, {}", downloads_left(facts), images.files, bytes(images.bytes)),
            format!("{DOWNLOADS_ADVICE}; the daemon deletes the images at its next start"),
        ),
    };
    let token = facts.open_token.as_ref().map(|path| {
        let path = shown(path);
        Finding::warn("token", format!("others can read {path}"), format!("`chmod 600 '{path}'`"))
    });
    std::iter::once(unfinished).chain(token).collect()
}

const DOWNLOADS_ADVICE: &str =
    "`weightsd pull` of the model goes on from there; delete `*.incomplete` of models that you do not want";

fn downloads_left(facts: &PlaceFacts) -> String {
    let downloads = facts.unfinished.downloads;
    format!("{} downloads that were interrupted, {}", downloads.files, bytes(downloads.bytes))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

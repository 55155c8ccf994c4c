//! Files, folders, caches, specs, requests and bytes that are not what they should be: the cases of `tests/hostile`,
//! each with the one answer it gets. One daemon takes them all, and lends what is sound after each of them.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::Shutdown,
    os::unix::{fs::symlink, net::UnixListener},
    path::{Path, PathBuf},
    process::Command,
};

use serde::Deserialize;
use tonic::{Code, Status};
use weightsd_client::{Client, Hold, Layout, LoadRequest};
use weightsd_fixtures::HubFixture;
use weightsd_proto::{
    rich_error,
    v1::{
        Adapter, AuditRequest, ErrorReason, EvictRequest, ExplainRequest, GetComponentRequest, LoadComponentRequest,
        ModelSelector, Quantisation, ResolveRequest,
    },
};

use crate::{
    harness::{Daemon, Home, PATIENCE, eventually, tiny},
    raw,
};

/// The manifests, by what is hostile.
const MANIFESTS: [(&str, &str); 9] = [
    ("files", include_str!("../hostile/files.toml")),
    ("gguf", include_str!("../hostile/gguf.toml")),
    ("paths", include_str!("../hostile/paths.toml")),
    ("indexes", include_str!("../hostile/indexes.toml")),
    ("configs", include_str!("../hostile/configs.toml")),
    ("hubs", include_str!("../hostile/hubs.toml")),
    ("specs", include_str!("../hostile/specs.toml")),
    ("requests", include_str!("../hostile/requests.toml")),
    ("bytes", include_str!("../hostile/bytes.toml")),
];
/// So that no case gets lost unnoticed.
const CASES_MIN: usize = 470;
/// Longest message, in bytes: a sentence, not a copy of what was sent.
const MESSAGE_BYTES_MAX: usize = 1200;
/// What the daemon may have in memory after all cases, and at the worst moment.
const MEMORY_MAX: u64 = 200 << 20;
const MEMORY_PEAK_MAX: u64 = 256 << 20;

/// Values for all cases of a manifest, and the cases.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    code: Option<String>,
    reason: Option<String>,
    component: Option<String>,
    names: Option<String>,
    spec: Option<String>,
    case: Vec<Case>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Case {
    name: String,
    // What is expected.
    code: Option<String>,
    reason: Option<String>,
    word: String,
    names: Option<String>,
    // A safetensors file.
    header: Option<String>,
    announce: Option<i64>,
    data: u64,
    hex: Option<String>,
    text: Option<String>,
    // A GGUF file.
    parts: Vec<String>,
    // Folders.
    files: BTreeMap<String, String>,
    index: Option<String>,
    // A configuration.
    key: Option<String>,
    value: Option<String>,
    content: Option<String>,
    // A selector.
    spec: Option<String>,
    revision: String,
    hub_cache: String,
    working_directory: String,
    // A request.
    call: Option<String>,
    no_model: bool,
    component: Option<String>,
    components: Vec<String>,
    layout: i32,
    audit_policy: i32,
    hold: i32,
    keep_alive: Option<(i64, i32)>,
    client_name: String,
    patterns: Vec<String>,
    variant: String,
    verification: i32,
    dtype: i32,
    merged_layers: i32,
    form: i32,
    residency: i32,
    lease_again: String,
    device: String,
    quantise: Option<Quantise>,
    dequantise: bool,
    adapters: Vec<Added>,
    adapter_copies: Option<usize>,
    id: String,
    images: bool,
    // Bytes on the socket.
    sent: Option<String>,
    reply: Option<String>,
    http: bool,
}

/// How layers are to be quantised; each pattern that often.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Quantise {
    mode: i32,
    bits: u32,
    group_size: u32,
    only: Vec<String>,
    excluding: Vec<String>,
    copies: Option<usize>,
}

impl Quantise {
    fn message(&self) -> Quantisation {
        let copies = self.copies.unwrap_or(1);
        let patterns =
            |patterns: &[String]| copies_of(patterns.iter().map(|pattern| expand(pattern)).collect(), copies);
        Quantisation {
            mode: self.mode,
            bits: self.bits,
            group_size: self.group_size,
            only: patterns(&self.only),
            excluding: patterns(&self.excluding),
        }
    }
}

/// All of them that often.
fn copies_of<T: Clone>(all: Vec<T>, copies: usize) -> Vec<T> {
    let count = all.len() * copies;
    all.into_iter().cycle().take(count).collect()
}

/// What is added to the weights; a path is taken from the folder of the case.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Added {
    spec: Option<String>,
    scale: Option<f64>,
}

impl Added {
    fn message(&self, folder: &Path) -> Adapter {
        let model = self.spec.as_ref().map(|spec| ModelSelector {
            spec: expand(spec),
            working_directory: text(folder),
            offline: true,
            ..ModelSelector::default()
        });
        Adapter { model, scale: self.scale }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_input_has_its_answer_and_hurts_nobody() {
    let home = Home::new();
    let daemon = home.daemon();
    let sound = Sound::new(&home, &daemon).await;
    sound.is_lent("the beginning").await;
    let descriptors = descriptors(&daemon);
    let mut service = raw::service(daemon.socket()).await;
    let mut names = HashSet::new();
    let mut faults = Vec::new();
    for (kind, manifest) in manifests() {
        println!("{kind}: {} cases", manifest.case.len());
        for case in &manifest.case {
            assert!(names.insert(case.name.clone()), "two cases are called `{}`", case.name);
            let folder = home.path().join(kind).join(&case.name);
            fs::create_dir_all(&folder).unwrap();
            let result = match kind {
                "bytes" => say(&daemon, case),
                _ => {
                    let request = prepare(kind, &manifest, case, &folder, &sound);
                    let expected = Expected::new(&manifest, case, &request, &folder);
                    ask(&mut service, case, request).await.and_then(|answer| expected.check(answer))
                }
            };
            if let Err(fault) = result {
                faults.push(format!("{kind}/{}: {fault}", case.name));
            }
            // Twenty thousand files are not kept for longer than they are needed.
            fs::remove_dir_all(&folder).unwrap();
            sound.is_lent(&case.name).await;
        }
    }
    assert!(faults.is_empty(), "{} of {} cases:\n{}", faults.len(), names.len(), faults.join("\n"));
    assert!(names.len() >= CASES_MIN, "{} cases, there should be {CASES_MIN} at least", names.len());

    let memory = sound.client.status().await.unwrap().memory_bytes;
    println!("{} cases; memory {} MiB, at most {} MiB", names.len(), memory >> 20, peak(&daemon) >> 20);
    assert!(memory < MEMORY_MAX, "{memory} bytes of memory");
    assert!(peak(&daemon) < MEMORY_PEAK_MAX, "{} bytes of memory at the worst moment", peak(&daemon));
    drop(service);
    eventually("descriptors are given back", || self::descriptors(&daemon) <= descriptors);
    assert!(daemon.terminate().success());
    assert!(!home.log().contains("panicked"), "the log tells of a panic:\n{}", home.log());
}

fn manifests() -> impl Iterator<Item = (&'static str, Manifest)> {
    MANIFESTS.into_iter().map(|(kind, text)| match toml::from_str(text) {
        Ok(manifest) => (kind, manifest),
        Err(error) => panic!("tests/hostile/{kind}.toml: {error}"),
    })
}

/// What is lent after each case: a small model that is warm, and a file that nobody has asked for before.
struct Sound {
    client: Client,
    hub: HubFixture,
    home: PathBuf,
    model: PathBuf,
    request: LoadRequest,
}

impl Sound {
    async fn new(home: &Home, daemon: &Daemon) -> Self {
        let hub = home.tiny("test/sound");
        let model = home.path().join("sound");
        tiny(2).write_directory(&model).unwrap();
        fs::write(home.path().join("good.safetensors"), good(&["w"])).unwrap();
        let request = home.request("test/sound", "vae").layout(Layout::Source);
        Self { client: daemon.client().await, hub, home: home.path().to_owned(), model, request }
    }

    async fn is_lent(&self, after: &str) {
        let lent = self.client.load(self.request.clone(), |_| ()).await;
        let lent = lent.unwrap_or_else(|error| panic!("after {after}: {error}"));
        let kernel = lent.tensor("decoder.conv_in.weight").unwrap();
        let written = self.hub.written.tensor("vae", kernel.source_name()).unwrap();
        assert_eq!(kernel.bytes(), self.hub.written.read(written).unwrap(), "after {after}");

        let fresh = self.home.join("fresh.safetensors");
        fs::remove_file(&fresh).ok();
        fs::write(&fresh, good(&[after])).unwrap();
        let request = LoadRequest::new(fresh.to_str().unwrap(), "model").keep_alive(std::time::Duration::ZERO);
        let lent = self.client.load(request, |_| ()).await;
        let lent = lent.unwrap_or_else(|error| panic!("after {after}: {error}"));
        assert_eq!(lent.tensor(after).unwrap().bytes(), [0], "after {after}");
    }
}

impl Case {
    /// The model that it asks for.
    fn selector(&self, spec: String) -> ModelSelector {
        ModelSelector {
            revision: expand(&self.revision),
            hub_cache: expand(&self.hub_cache),
            working_directory: expand(&self.working_directory),
            spec,
            patterns: self.patterns.iter().map(|pattern| expand(pattern)).collect(),
            variant: expand(&self.variant),
            offline: true,
        }
    }
}

/// Lays out what `case` is about, and says how to ask for it.
fn prepare(kind: &str, manifest: &Manifest, case: &Case, folder: &Path, sound: &Sound) -> LoadComponentRequest {
    let spec = case.spec.as_ref().or(manifest.spec.as_ref()).map(|spec| expand(spec)).unwrap_or_default();
    let mut model = case.selector(spec.clone());
    for (path, content) in &case.files {
        put(folder, path, content);
    }
    match kind {
        "files" => {
            let path = folder.join(format!("{}.safetensors", case.name));
            write_safetensors(&path, case);
            model.spec = text(&path);
        }
        "gguf" => {
            let path = folder.join(format!("{}.gguf", case.name));
            write_gguf(&path, case);
            model.spec = text(&path);
        }
        "paths" => model.spec = text(&if spec == "." { folder.to_owned() } else { folder.join(spec) }),
        "indexes" => {
            if let Some(index) = &case.index {
                put(folder, "model.safetensors.index.json", index);
            }
            model.spec = text(folder);
        }
        "configs" => {
            spoil_config(case, folder, sound);
            model.spec = text(folder);
        }
        "hubs" => model.hub_cache = text(folder),
        "requests" if spec.is_empty() => model.spec = text(&sound.model),
        _ => {}
    }
    let component = case.component.as_ref().or(manifest.component.as_ref());
    let adapters: Vec<_> = case.adapters.iter().map(|added| added.message(folder)).collect();
    let source = if kind == "requests" { 0 } else { Layout::Source.into() };
    LoadComponentRequest {
        model: (!case.no_model).then_some(model),
        component: component.map_or_else(|| "transformer".to_owned(), |name| expand(name)),
        layout: if case.layout == 0 { source } else { case.layout },
        audit_policy: case.audit_policy,
        hold: if case.hold == 0 { Hold::None.into() } else { case.hold },
        keep_alive: case.keep_alive.map(|(seconds, nanos)| prost_types::Duration { seconds, nanos }),
        client_name: expand(&case.client_name),
        verification: case.verification,
        dtype: case.dtype,
        merged_layers: case.merged_layers,
        form: case.form,
        residency: case.residency,
        lease_again: expand(&case.lease_again),
        device: expand(&case.device),
        quantise: case.quantise.as_ref().map(Quantise::message),
        dequantise: case.dequantise,
        adapters: copies_of(adapters, case.adapter_copies.unwrap_or(1)),
        ..LoadComponentRequest::default()
    }
}

fn write_gguf(path: &Path, case: &Case) {
    let mut bytes = Vec::new();
    case.parts.iter().for_each(|part| gguf_part(&mut bytes, part));
    fs::write(path, bytes).unwrap();
}

/// Appends a part of a GGUF file, in the words of `tests/hostile/gguf.toml`.
fn gguf_part(bytes: &mut Vec<u8>, part: &str) {
    let (word, rest) = part.split_once(' ').unwrap_or((part, ""));
    let number = |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("`{part}`: {text} is no number"));
    let length = |text: &str| usize::try_from(number(text)).unwrap();
    match word {
        "raw" => bytes.extend_from_slice(rest.as_bytes()),
        "s" => {
            bytes.extend_from_slice(&(rest.len() as u64).to_le_bytes());
            bytes.extend_from_slice(rest.as_bytes());
        }
        "hex" => bytes.extend_from_slice(&hex::decode(rest).unwrap()),
        "u8" => bytes.push(u8::try_from(number(rest)).unwrap()),
        "u32" => bytes.extend_from_slice(&u32::try_from(number(rest)).unwrap().to_le_bytes()),
        "u64" => bytes.extend_from_slice(&number(rest).to_le_bytes()),
        "zeros" => bytes.resize(bytes.len() + length(rest), 0),
        "pad" => bytes.resize(bytes.len().next_multiple_of(length(rest)), 0),
        "start" => {
            bytes.extend_from_slice(b"GGUF\x03\0\0\0");
            rest.split(' ').for_each(|count| bytes.extend_from_slice(&number(count).to_le_bytes()));
        }
        "tensor" => {
            let [name, kind, offset, sides @ ..] = &rest.split(' ').collect::<Vec<_>>()[..] else {
                panic!("`{part}` is no tensor")
            };
            gguf_part(bytes, &format!("s {name}"));
            gguf_part(bytes, &format!("u32 {}", sides.len()));
            sides.iter().for_each(|side| gguf_part(bytes, &format!("u64 {side}")));
            gguf_part(bytes, &format!("u32 {kind}"));
            gguf_part(bytes, &format!("u64 {offset}"));
        }
        count => {
            let repeated = rest.strip_prefix("times ").unwrap_or_else(|| panic!("`{part}` is no part"));
            (0..number(count)).for_each(|at| gguf_part(bytes, &repeated.replace("{i}", &at.to_string())));
        }
    }
}

/// Asks, and hands back the refusal.
async fn ask(service: &mut raw::Service, case: &Case, request: LoadComponentRequest) -> Result<Status, String> {
    let id = expand(&case.id);
    let model = request.model.clone();
    let audit = AuditRequest { model: model.clone(), components: case.components.clone(), ..AuditRequest::default() };
    let answer = match case.call.as_deref() {
        None | Some("load") => {
            let looks = async {
                // A request that only looks does no harm either, whatever its answer is.
                let component = vec![request.component.clone()];
                let resolved = service.clone().resolve(ResolveRequest { model: model.clone() }).await.err();
                let audited = service
                    .clone()
                    .audit(AuditRequest { model, components: component, ..AuditRequest::default() })
                    .await
                    .err();
                [resolved, audited].into_iter().flatten().find(|status| status.code() == Code::Internal)
            };
            if let Some(status) = within(looks).await? {
                return Err(format!("looking at it fails with: {status}"));
            }
            within(raw::load(service, request)).await?.map(drop)
        }
        Some("resolve") => within(service.resolve(ResolveRequest { model })).await?.map(drop),
        Some("audit") => within(service.audit(audit)).await?.map(drop),
        Some("get") => within(service.get_component(GetComponentRequest { id })).await?.map(drop),
        Some("explain") => within(service.explain(ExplainRequest { id })).await?.map(drop),
        Some("evict") => {
            within(service.evict(EvictRequest { id, images: case.images, ..EvictRequest::default() })).await?.map(drop)
        }
        Some(other) => panic!("no call `{other}`"),
    };
    answer.err().ok_or_else(|| "it is accepted".to_owned())
}

async fn within<T>(work: impl Future<Output = T>) -> Result<T, String> {
    tokio::time::timeout(PATIENCE, work).await.map_err(|_| format!("no answer within {PATIENCE:?}"))
}

/// The answer that a case gets.
struct Expected {
    code: String,
    reason: String,
    words: Vec<String>,
}

impl Expected {
    fn new(manifest: &Manifest, case: &Case, request: &LoadComponentRequest, folder: &Path) -> Self {
        let mut words = vec![case.word.clone()];
        words.extend(case.names.clone().or_else(|| manifest.names.clone()));
        if words.len() == 1 {
            match folder.parent().and_then(Path::file_name).and_then(|kind| kind.to_str()) {
                Some("files") => words.push(format!("{}.safetensors", case.name)),
                Some("configs") => words.push(format!("{}/config.json", request.component)),
                _ => {}
            }
        }
        let one = |own: &Option<String>, all: &Option<String>| own.clone().or_else(|| all.clone()).unwrap();
        Self { code: one(&case.code, &manifest.code), reason: one(&case.reason, &manifest.reason), words }
    }

    fn check(&self, status: Status) -> Result<(), String> {
        let message = status.message();
        let fault =
            |what: &str| Err(format!("{what}: {:?} {message:?} {:?}", status.code(), rich_error::decode(&status)));
        if format!("{:?}", status.code()) != self.code {
            return fault(&format!("expected code {}", self.code));
        }
        if let Some(word) = self.words.iter().find(|word| !message.contains(&**word)) {
            return fault(&format!("the message lacks {word:?}"));
        }
        if self.reason.is_empty() {
            return Ok(());
        }
        let Some(detail) = rich_error::decode(&status) else { return fault("there is no detail") };
        if format!("{:?}", detail.reason()) != self.reason || detail.reason() == ErrorReason::Unspecified {
            return fault(&format!("expected reason {}", self.reason));
        }
        if message.is_empty() || message.ends_with('.') || message.len() > MESSAGE_BYTES_MAX {
            return fault("the message is no sentence");
        }
        for text in [message, &detail.hint, &detail.resource] {
            if text.chars().any(char::is_control) {
                return fault("there are control characters in it");
            }
        }
        if detail.hint.is_empty() {
            return fault("there is no hint");
        }
        if detail.retryable {
            return fault("trying again does not help");
        }
        Ok(())
    }
}

/// Says something on the socket, and hears what the daemon has to say to that.
fn say(daemon: &Daemon, case: &Case) -> Result<(), String> {
    let sent = hex::decode(expand(case.sent.as_deref().unwrap())).unwrap();
    let mut stream = daemon.connect();
    let mut writer = stream.try_clone().unwrap();
    // The daemon may hang up before it has heard all.
    let writing = std::thread::spawn(move || {
        let _ = writer.write_all(&sent);
        let _ = writer.shutdown(Shutdown::Write);
    });
    let mut reply = Vec::new();
    let end = stream.read_to_end(&mut reply);
    writing.join().unwrap();
    // A connection that is closed with something unread is reset, which is an end too.
    if let Some(error) = end.err().filter(|error| error.kind() != ErrorKind::ConnectionReset) {
        return Err(format!("the connection is not ended: {error}"));
    }
    let expected = case.reply.as_deref().map(|reply| hex::decode(expand(reply)).unwrap());
    match expected {
        Some(expected) if expected != reply => Err(format!("the reply is {reply:02x?}, expected {expected:02x?}")),
        None if !case.http => Err("the manifest expects nothing".to_owned()),
        _ => Ok(()),
    }
}

/// A sound safetensors file of one byte a tensor.
fn good(names: &[&str]) -> Vec<u8> {
    let entry = |(at, name): (usize, &&str)| {
        format!(r#""{name}":{{"dtype":"U8","shape":[1],"data_offsets":[{at},{}]}}"#, at + 1)
    };
    let json = format!("{{{}}}", names.iter().enumerate().map(entry).collect::<Vec<_>>().join(","));
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &vec![0; names.len()]].concat()
}

fn write_safetensors(path: &Path, case: &Case) {
    if let Some(text) = &case.text {
        return fs::write(path, expand(text)).unwrap();
    }
    if let Some(bytes) = &case.hex {
        return fs::write(path, hex::decode(expand(bytes)).unwrap()).unwrap();
    }
    let json = expand(case.header.as_deref().unwrap());
    let announced = case.announce.map_or(json.len() as u64, i64::cast_unsigned);
    fs::write(path, [&announced.to_le_bytes()[..], json.as_bytes()].concat()).unwrap();
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(8 + json.len() as u64 + case.data).unwrap();
}

/// Lays out one entry of `files`, as tests/hostile/paths.toml describes them.
fn put(folder: &Path, path: &str, content: &str) {
    if let Some((count, content)) = content.strip_prefix("@copies:").map(|rest| rest.split_once(':').unwrap()) {
        for at in 0..count.parse().unwrap() {
            let count = |text: &str| text.replace("{i}", &usize::to_string(&at));
            put(folder, &count(path), &count(content));
        }
        return;
    }
    let path = folder.join(expand(path));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let Some(recipe) = content.strip_prefix('@') else { return fs::write(path, expand(content)).unwrap() };
    match recipe.split_once([':', ' ']).unwrap_or((recipe, "")) {
        ("good", names) => fs::write(path, good(&names.split(',').collect::<Vec<_>>())).unwrap(),
        // By the program, since rustix has no call for it on macOS.
        ("fifo", _) => assert!(Command::new("mkfifo").arg(&path).status().unwrap().success()),
        ("socket", _) => {
            // The path of a socket has to be short.
            let short = folder.ancestors().nth(2).unwrap().join("s");
            drop(UnixListener::bind(&short).unwrap());
            fs::rename(short, path).unwrap();
        }
        ("folder", _) => fs::create_dir(path).unwrap(),
        ("link", target) => symlink(expand(target), path).unwrap(),
        ("header", json) => {
            let json = expand(json);
            fs::write(path, [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat()).unwrap();
        }
        ("hex", bytes) => fs::write(path, hex::decode(bytes).unwrap()).unwrap(),
        ("sparse", length) => fs::File::create(path).unwrap().set_len(length.parse().unwrap()).unwrap(),
        ("absent", _) => {}
        _ => panic!("no recipe `{content}`"),
    }
}

/// The sound model in links, with one component's configuration spoiled.
fn spoil_config(case: &Case, folder: &Path, sound: &Sound) {
    let component = case.component.as_deref().unwrap();
    let link_all = |from: &Path, to: &Path| {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            symlink(entry.path(), to.join(entry.file_name())).unwrap();
        }
    };
    link_all(&sound.model, folder);
    fs::remove_file(folder.join(component)).unwrap();
    link_all(&sound.model.join(component), &folder.join(component));
    let path = format!("{component}/config.json");
    fs::remove_file(folder.join(&path)).unwrap();
    if let Some(content) = &case.content {
        return put(folder, &path, content);
    }
    let json = fs::read(sound.model.join(&path)).unwrap();
    let mut config: BTreeMap<String, Box<serde_json::value::RawValue>> = serde_json::from_slice(&json).unwrap();
    let key = case.key.as_deref().unwrap();
    config.remove(key);
    let sound = config.iter().map(|(key, value)| (key.as_str(), value.get().to_owned()));
    let all = sound.chain(case.value.as_ref().map(|value| (key, expand(value))));
    let entries: Vec<String> = all.map(|(key, value)| format!("\"{key}\":{value}")).collect();
    fs::write(folder.join(path), format!("{{{}}}", entries.join(","))).unwrap();
}

/// `<<x*3>>` is `xxx`; `{i}` in it counts from 0.
fn expand(text: &str) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("<<") {
        let (recipe, after) = after.split_once(">>").unwrap();
        let (part, count) = recipe.rsplit_once('*').unwrap();
        let count: usize = count.parse().unwrap();
        expanded.push_str(before);
        if part.contains("{i}") {
            (0..count).for_each(|at| expanded.push_str(&part.replace("{i}", &at.to_string())));
        } else {
            expanded.push_str(&part.repeat(count));
        }
        rest = after;
    }
    expanded + rest
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Open descriptors of the daemon; 0 where the system does not tell.
fn descriptors(daemon: &Daemon) -> usize {
    fs::read_dir(format!("/proc/{}/fd", daemon.pid())).map_or(0, Iterator::count)
}

/// The most memory that the daemon has had, in bytes; 0 where the system does not tell.
fn peak(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).map_or(0, |kilobytes| kilobytes * 1024)
}

//! `Z-Image-Turbo` with its true shapes: 33 GB, and the daemon reads only the headers. The files are sparse, so that any
//! disk holds them.

use std::{
    fs::{self, File},
    io::Read as _,
    path::PathBuf,
};

use weightsd_client::{Layout, proto::EvictRequest, selector};
use weightsd_fixtures::{Checkpoint, Contents, Dims, FilePart, GgmlType, GgufForm, Names};
use weightsd_segment::PinnedFile;

use crate::harness::{Home, PATIENCE, WITHOUT_VERIFYING};

const REPO: &str = "Tongyi-MAI/Z-Image-Turbo";
/// Component, layout, tensors, bytes of tensors: the published figures.
const COMPONENTS: [(&str, Layout, usize, u64); 3] = [
    ("transformer", Layout::Mlx, 521, 24_619_634_944),
    ("text_encoder", Layout::Mlx, 398, 8_044_936_192),
    ("vae", Layout::Source, 244, 167_639_366),
];
/// What the daemon reads besides files of the model: wake-ups of its event loop, eight bytes each.
const READ_SLACK: u64 = 64 * 1024;
/// What the system may read ahead of a header, for each file.
const READAHEAD: u64 = 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn of_33_gigabytes_only_the_headers_are_read() {
    let home = Home::new();
    let checkpoint = Checkpoint::new(&Dims::true_size(), Contents::Sparse).unwrap();
    let hub = checkpoint.write_hub_cache(home.hub_cache(), REPO, "main").unwrap();
    let shards = |name| hub.written.weight_files_of(name);
    // The names of sparse blobs are not their hashes.
    let daemon = home.daemon_with(&WITHOUT_VERIFYING);
    let client = daemon.client().await.with_deadline(PATIENCE);
    client.status().await.unwrap();
    // Asks which MLX computes, whose library is then read once.
    drop(client.load(home.request(REPO, "text_encoder"), |_| ()).await.unwrap());
    client.evict(EvictRequest::default()).await.unwrap();

    let before = read_by(daemon.pid());
    let mut held = Vec::new();
    for (name, layout, tensors, bytes) in COMPONENTS {
        let component = client.load(home.request(REPO, name).layout(layout), |_| ()).await.unwrap();
        assert_eq!((component.tensors().len(), component.info().tensor_bytes), (tensors, bytes), "{name}");
        assert_eq!(component.tensors().map(|tensor| tensor.bytes().len() as u64).sum::<u64>(), bytes, "{name}");
        assert_eq!(component.info().computed_bytes, 0);
        let audit = component.audit().unwrap();
        assert!(audit.clean, "{audit:?}");
        assert_eq!((audit.expected as usize, audit.matched as usize, audit.extra), (tensors, tensors, 0), "{name}");
        held.push(component);
    }
    let read = read_by(daemon.pid()).zip(before).map(|(now, before)| now - before);

    let shard_files: Vec<PathBuf> = COMPONENTS.iter().flat_map(|(name, ..)| shards(name)).collect();
    let headers: u64 = shard_files.iter().map(header_length).sum();
    let small: u64 = hub.files.iter().filter(|file| file.path.ends_with(".json")).map(|file| file.bytes).sum();
    // Each of the three loads looks at the small files.
    let allowed = headers + 3 * small + READ_SLACK;
    if let Some(read) = read {
        assert!((headers..=allowed).contains(&read), "{read} bytes were read, expected {headers} to {allowed}");
    }

    let mut resident = 0;
    for (component, (name, ..)) in held.iter().zip(COMPONENTS) {
        let listed = client.get(component.id()).await.unwrap().component.unwrap();
        let counted: u64 =
            shards(name).iter().map(|path| PinnedFile::open(path).unwrap().resident_bytes().unwrap()).sum();
        assert_eq!(listed.resident_bytes, counted, "{name}");
        resident += counted;
    }
    let allowed = headers + READAHEAD * shard_files.len() as u64;
    assert!((1..=allowed).contains(&resident), "{resident} bytes are in memory, expected at most {allowed}");

    let mut model = selector(REPO);
    model.hub_cache = home.hub_cache().display().to_string();
    let audits = client.audit(model, Vec::new()).await.unwrap().reports;
    assert!(audits.len() == 3 && audits.iter().all(|audit| audit.clean), "{audits:?}");
}

/// The length of the quantised transformer as leejet publishes it: its tensors, and a header of 30,400 bytes.
const GGUF_BYTES: u64 = 6_577_440_704;
/// 202 layers in blocks of 34 bytes for 32 elements, and the rest in F32.
const GGUF_TENSOR_BYTES: u64 = 6_142_033_920 / 32 * 34 + 12_874_816 * 4;

#[tokio::test(flavor = "multi_thread")]
async fn the_published_gguf_is_told_by_its_header() {
    let home = Home::new();
    let checkpoint = Checkpoint::new(&Dims::true_size(), Contents::Sparse).unwrap();
    let daemon = home.daemon();
    let client = daemon.client().await.with_deadline(PATIENCE);
    client.status().await.unwrap();
    for prefix in ["", "model.diffusion_model."] {
        let part = FilePart { component: "transformer", prefix, names: Names::Original };
        let stem = if prefix.is_empty() { "z_image_turbo-Q8_0" } else { "prefixed-Q8_0" };
        let form = GgufForm { stem, parts: 1, metadata: &[], layers: GgmlType::Q8_0 };
        let written = checkpoint.write_gguf(home.path(), part, form).unwrap();
        let bytes: u64 = written.tensors.iter().map(|tensor| tensor.range.end - tensor.range.start).sum();
        assert_eq!((written.tensors.len(), bytes), (453, GGUF_TENSOR_BYTES));
        assert!(!prefix.is_empty() || written.files[0].bytes == GGUF_BYTES, "{:?}", written.files);

        let path = home.path().join(&written.files[0].path);
        let before = read_by(daemon.pid());
        let audit = client.audit(selector(path.to_str().unwrap()), Vec::new()).await.unwrap();
        let read = read_by(daemon.pid()).zip(before).map(|(now, before)| now - before);
        assert!(read.is_none_or(|read| read < 4 * READ_SLACK), "{read:?} bytes were read");
        let [report] = &audit.reports[..] else { panic!("{audit:?}") };
        assert!(report.clean && report.component == "transformer", "{report:?}");
        // Fused attention of 34 blocks is three layers.
        assert_eq!((report.expected, report.matched, report.extra), (521, 521, 0));
        assert_eq!(report.tensor_bytes, GGUF_TENSOR_BYTES);

        let inspect = |arguments: &[&str]| {
            let output = home.command().arg("inspect").arg(&path).args(arguments).arg("--json").output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
        };
        let told = inspect(&[]);
        assert_eq!(
            (told["known"].as_str(), told["components"][0]["component"].as_str()),
            (Some("z-image-turbo"), Some("transformer"))
        );
        let tensors = inspect(&["transformer"]);
        let tensors = tensors["tensors"].as_array().unwrap();
        let bytes: u64 = tensors.iter().map(|tensor| tensor["bytes"].as_u64().unwrap()).sum();
        assert_eq!((tensors.len(), bytes), (521, GGUF_TENSOR_BYTES));
    }
}

/// Bytes that the process has read, from files or from elsewhere, by `read` and its kin; see proc_pid_io(5). macOS does
/// not tell.
fn read_by(pid: u32) -> Option<u64> {
    cfg!(target_os = "linux").then(|| {
        let text = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
        text.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
    })
}

/// Length prefix and JSON.
fn header_length(path: &PathBuf) -> u64 {
    let mut prefix = [0; 8];
    File::open(path).unwrap().read_exact(&mut prefix).unwrap();
    8 + u64::from_le_bytes(prefix)
}

//! `Z-Image-Turbo` with its true shapes: 33 GB, and the daemon reads only the headers. The files are sparse, so that any
//! disk holds them.

use std::{
    fs::{self, File},
    io::Read as _,
    path::PathBuf,
};

use weightsd_client::{Layout, proto::EvictRequest, selector};
use weightsd_fixtures::{Checkpoint, Contents, Dims};
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

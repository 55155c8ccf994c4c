//! Two volumes that are told apart, and known again, by their UUIDs: numbers of devices change hands when the system
//! starts again. Only root can mount them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use weightsd_client::{
    Client, Component, ErrorReason, LoadRequest, Verification,
    proto::{EventKind, VerificationState},
};
use weightsd_fixtures::Written;

use crate::{
    harness::{Home, events, tiny, until},
    not_run::not_run,
};

const REPO: &str = "test/z-image";
/// How long a device may stay busy after it was detached.
const BUSY: Duration = Duration::from_secs(10);
/// Bytes of a damaged file that are looked for in the image of its volume.
const TELLING: usize = 256;

/// A program that must succeed; `None` where the machine does not let it.
fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Like [`run`], for a device that may be busy for a moment: the kernel lets go of it after `losetup -d` has ended.
fn run_when_free(program: &str, arguments: &[&str]) -> Option<String> {
    let asked = Instant::now();
    loop {
        let done = run(program, arguments);
        if done.is_some() || asked.elapsed() > BUSY {
            return done;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Held by a story that uses loop devices: one that gives a device back must find it free again. Released when dropped.
pub(crate) fn loop_devices() -> fs::File {
    let file = fs::File::create(std::env::temp_dir().join("weightsd-stories.loop-devices")).unwrap();
    file.lock().unwrap();
    file
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A file with an ext4 file system in it, mounted through the loop device of that name. Gone when dropped.
struct Mounted {
    at: PathBuf,
    device: String,
}

impl Mounted {
    fn new(image: &Path, device: &str, at: &Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        run_when_free("losetup", &[device, text(image)])?;
        let mounted = Self { at: at.to_owned(), device: device.to_owned() };
        run_when_free("mount", &["-t", "ext4", device, text(at)]).map(|_| mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &[text(&self.at)]);
        run("losetup", &["-d", &self.device]);
    }
}

/// Two volumes of the same files with the same numbers and times. On the second one the autoencoder is damaged.
struct Volumes {
    images: [PathBuf; 2],
    devices: [String; 2],
    places: [PathBuf; 2],
}

impl Volumes {
    fn make(home: &Home) -> Option<Self> {
        let place = |name: &str| home.path().join(name);
        let (images, places) = ([place("a.img"), place("b.img")], [place("a"), place("b")]);
        fs::File::create(&images[0]).unwrap().set_len(64 << 20).unwrap();
        run("mkfs.ext4", &["-q", text(&images[0])])?;
        // Taken one after the other, so that they are two.
        let first = run("losetup", &["-f", "--show", text(&images[0])])?;
        let second = run("losetup", &["-f", "--show", text(&images[0])]);
        run("losetup", &["-d", &first]);
        let second = second?;
        run("losetup", &["-d", &second]);
        let made = Self { images, devices: [first, second], places };
        let mounted = Mounted::new(&made.images[0], &made.devices[0], &made.places[0])?;
        tiny(1).write_directory(made.places[0].join("model")).unwrap();
        let cached = tiny(1).write_hub_cache(made.places[0].join("hub"), REPO, "main").unwrap();
        let telling = telling(&cached.written);
        drop(mounted);
        fs::copy(&made.images[0], &made.images[1]).unwrap();
        run("tune2fs", &["-U", "random", text(&made.images[1])])?;
        damage(&made.images[1], &telling);
        Some(made)
    }

    /// Mounts the first volume through the device of that number, and the second one through the other.
    fn mount(&self, first: usize) -> Option<[Mounted; 2]> {
        let mount = |volume: usize, device: usize| {
            Mounted::new(&self.images[volume], &self.devices[device], &self.places[volume])
        };
        Some([mount(0, first)?, mount(1, 1 - first)?])
    }

    /// The local model on a volume.
    fn model(&self, volume: usize) -> LoadRequest {
        LoadRequest::new(text(&self.places[volume].join("model")), "transformer")
    }

    /// The autoencoder in the cache on a volume, compared with its hash before it is lent.
    fn cached(&self, volume: usize) -> LoadRequest {
        let request = LoadRequest::new(REPO, "vae").hub_cache(self.places[volume].join("hub"));
        request.verification(Verification::Before)
    }
}

/// The last bytes of the autoencoder's last shard.
fn telling(written: &Written) -> Vec<u8> {
    let shard = written.weight_files_of("vae").pop().unwrap();
    let bytes = fs::read(shard).unwrap();
    bytes[bytes.len() - TELLING..].to_vec()
}

/// Changes a byte behind the back of the file system, in each place where `telling` is.
fn damage(image: &Path, telling: &[u8]) {
    let mut bytes = fs::read(image).unwrap();
    let found = bytes.windows(TELLING).enumerate().filter(|(_, part)| *part == telling);
    let places: Vec<_> = found.map(|(at, _)| at).collect();
    assert_eq!(places.len(), 2, "the model and the cache have it once each");
    for at in places {
        bytes[at] ^= 1;
    }
    fs::write(image, bytes).unwrap();
}

fn inode(path: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs::metadata(path).unwrap();
    (metadata.dev(), metadata.ino())
}

async fn load(client: &Client, request: LoadRequest) -> Component {
    client.load(request, |_| ()).await.unwrap()
}

/// When the files of a component were found good.
fn verified(component: &Component) -> prost_types::Timestamp {
    let attestation = component.info().attestation.as_ref().unwrap();
    assert_eq!(attestation.state(), VerificationState::Verified);
    attestation.time.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_that_change_device_numbers_keep_their_ids_and_attestations() {
    let home = Home::new();
    let _alone = loop_devices();
    let Some(volumes) = Volumes::make(&home) else { return not_run("only root can mount volumes") };
    let weights = |volume: usize| volumes.places[volume].join("model/model_index.json");
    let mounted = volumes.mount(0).unwrap();
    let (first, second) = (inode(&weights(0)), inode(&weights(1)));
    assert!(first.0 != second.0 && first.1 == second.1, "the same numbers on two devices");
    let daemon = home.daemon();
    let client = daemon.client().await;
    let here = load(&client, volumes.model(0)).await;
    let (id, found_good) = (here.id().to_owned(), verified(&load(&client, volumes.cached(0)).await));
    let computed = async |client: &Client| {
        events(client, EventKind::Derived).await.iter().filter(|event| event.component_id == id).count()
    };
    assert_eq!(computed(&client).await, 1);
    drop(here);
    assert!(daemon.terminate().success());

    // The system starts again, and finds the volumes in the other order.
    drop(mounted);
    let mounted = volumes.mount(1).unwrap();
    assert_eq!((inode(&weights(0)), inode(&weights(1))), ((second.0, first.1), (first.0, second.1)));
    let daemon = home.daemon();
    let client = daemon.client().await;
    until("a second hashing would have another time", async || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        now.as_secs() > found_good.seconds.cast_unsigned() + 1
    })
    .await;
    assert_eq!(load(&client, volumes.model(0)).await.id(), id);
    assert_eq!(computed(&client).await, 0, "the image of before is found");
    assert_eq!(
        verified(&load(&client, volumes.cached(0)).await).seconds,
        found_good.seconds,
        "nothing is hashed again"
    );
    // What lies on the other volume has the same names, numbers and times, and is another file.
    assert_ne!(load(&client, volumes.model(1)).await.id(), id);
    let damaged = client.load(volumes.cached(1), |_| ()).await.unwrap_err();
    assert_eq!(damaged.reason(), Some(ErrorReason::Corrupt), "{damaged}");
    assert!(daemon.terminate().success());
    drop(mounted);
}

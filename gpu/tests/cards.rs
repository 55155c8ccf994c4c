//! The crate against the stand-in of the driver, also across processes. The one variable that names the stand-in's folder is the
//! whole process's, so each test runs in a process of its own.

#![cfg(target_os = "linux")] // The stand-in finds its files in Linux's way.

use std::{
    env,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::Path,
    process::Command,
};

use weightsd_core::card::CardId;
use weightsd_gpu::{Access, Buffer, Context, GpuError, LIBRARY, Mapping, Memory, Piece, Stream};
use weightsd_gpu_stand_in::{BYTES, CONTEXTS, FAULT, FOLDER, library, used, uuid};

const GRANULE: u64 = 2 << 20;

/// Runs the test of that name again in a process that has the stand-in for a driver. Returns the folder in that process, and
/// `None` in the one that only waits for it.
fn inside(test: &str, driver: &Path) -> Option<std::path::PathBuf> {
    if let Some(folder) = env::var_os(FOLDER) {
        return Some(folder.into());
    }
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(FOLDER, folder.path()).env(LIBRARY, driver);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    None
}

fn filled(bytes: &[u8]) -> Mapping {
    let context = Context::of(weightsd_gpu::resolve("cuda").unwrap()).unwrap();
    let mapping = Memory::create(&context, GRANULE).unwrap().map(Access::ReadWrite).unwrap();
    let mut back = vec![0; bytes.len()];
    let read = Stream::new(&context).unwrap().put(&mapping, &[Piece { offset: 256, bytes }], &mut back).unwrap();
    assert_eq!(read, bytes);
    mapping
}

fn content(mapping: &Mapping, length: usize) -> Vec<u8> {
    let mut back = vec![0; length];
    Stream::new(mapping.context()).unwrap().get(mapping, 256, &mut back).unwrap();
    back
}

#[test]
fn a_machine_without_a_driver_says_so() {
    let Some(_) = inside("a_machine_without_a_driver_says_so", Path::new("/nowhere/libcuda.so.1")) else { return };
    let error = weightsd_gpu::cards().unwrap_err();
    assert!(error.is_absent() && error.to_string().contains("cannot be opened as `/nowhere/libcuda.so.1`"), "{error}");
}

#[test]
fn cards_are_named_by_their_uuid_and_by_their_place() {
    let Some(folder) = inside("cards_are_named_by_their_uuid_and_by_their_place", &library()) else { return };
    let second = CardId(uuid(1));
    assert_eq!(weightsd_gpu::resolve("cuda").unwrap().id(), CardId(uuid(0)));
    for name in ["cuda:1", &second.to_string()] {
        let card = weightsd_gpu::resolve(name).unwrap();
        assert_eq!((card.id(), card.index(), card.granularity().unwrap()), (second, 1, GRANULE));
    }
    for name in ["cuda:2", "cuda1", "gpu", "", "cuda:x", "GPU-00000000-0000-0000-0000-000000000000"] {
        let error = weightsd_gpu::resolve(name).unwrap_err();
        assert!(error.is_absent() && error.to_string().contains(&second.to_string()), "{error}");
    }
    assert!(!folder.join(CONTEXTS).exists(), "looking makes no context");
}

#[test]
fn memory_is_shared_by_its_descriptor_and_outlives_its_maker() {
    let Some(folder) = inside("memory_is_shared_by_its_descriptor_and_outlives_its_maker", &library()) else { return };
    let written = filled(b"weights");
    let descriptor: OwnedFd = written.memory().export().unwrap();
    let context = written.context().clone();
    drop(written);
    assert_eq!(used(&folder, 0).unwrap(), GRANULE, "the descriptor keeps it");
    let read = |bytes| Memory::import(&context, descriptor.as_fd(), bytes).and_then(|memory| memory.map(Access::Read));
    let mapped = read(GRANULE).unwrap();
    assert_eq!(content(&mapped, 7), b"weights");
    // Its writer is refused, and the bytes stay.
    let mut back = [0; 1];
    let mut stream = Stream::new(&context).unwrap();
    let error = stream.put(&mapped, &[Piece { offset: 256, bytes: b"W" }], &mut back).unwrap_err();
    assert_eq!(error.to_string(), "cuMemcpyHtoDAsync failed: CUDA_ERROR_INVALID_VALUE");
    assert_eq!(content(&mapped, 7), b"weights");
    // Another length than its own, another kind of file, and ranges that leave it.
    assert!(read(2 * GRANULE).is_err());
    let other = tempfile::tempfile().unwrap();
    assert!(Memory::import(&context, other.as_fd(), GRANULE).is_err(), "{}", other.as_raw_fd());
    for (offset, length) in [(GRANULE, 1), (0, GRANULE + 1), (u64::MAX, 1)] {
        assert!(matches!(mapped.at(offset, length), Err(GpuError::OutOfRange { .. })));
    }
    drop(descriptor);
    assert_eq!(used(&folder, 0).unwrap(), GRANULE, "the mapping keeps it");
    drop(mapped);
    assert_eq!((used(&folder, 0).unwrap(), used(&folder, 1).unwrap()), (0, 0));
}

#[test]
fn a_full_card_says_what_it_has() {
    let Some(folder) = inside("a_full_card_says_what_it_has", &library()) else { return };
    let context = Context::of(weightsd_gpu::resolve("cuda:1").unwrap()).unwrap();
    let first = Memory::create(&context, GRANULE).unwrap();
    let error = Memory::create(&context, BYTES).unwrap_err();
    assert_eq!(error, GpuError::Full { needed: BYTES, free: BYTES - GRANULE, total: BYTES });
    assert!(error.is_full());
    drop(first);
    assert_eq!(context.memory().unwrap(), (BYTES, BYTES));
    Memory::create(&context, BYTES).unwrap();
    assert_eq!(std::fs::read_to_string(folder.join(CONTEXTS)).unwrap(), format!("{} 1\n", std::process::id()));
}

#[test]
fn a_buffer_works_whether_its_pages_are_kept_or_not() {
    let Some(folder) = inside("a_buffer_works_whether_its_pages_are_kept_or_not", &library()) else { return };
    let context = Context::of(weightsd_gpu::resolve("cuda").unwrap()).unwrap();
    let mapping = Memory::create(&context, GRANULE).unwrap().map(Access::ReadWrite).unwrap();
    let mut stream = Stream::new(&context).unwrap();
    for fault in ["", "cuMemHostRegister_v2 fail 5"] {
        std::fs::write(folder.join(FAULT), fault).unwrap();
        let (mut read, mut back) = (Buffer::new(&context, 100), Buffer::new(&context, 100));
        read.bytes().copy_from_slice(&[7; 100]);
        let piece = Piece { offset: 4096, bytes: &read.bytes()[..60] };
        assert_eq!(stream.put(&mapping, &[piece], back.bytes()).unwrap(), [7; 60], "{fault}");
    }
}

//! Behaves like NVIDIA's driver for the calls of `weightsd-gpu`, so that everything about VRAM is tested without a card. Memory
//! of a card is a file in a folder that all processes of a test share; its bytes are its VRAM.
//!
//! | of the driver | here |
//! |---|---|
//! | memory lives until its last handle, mapping and descriptor is gone, also by SIGKILL | each of them holds the same open file, and with it its lock; a file that nobody has locked counts no more and is deleted |
//! | two processes share it | a shared mapping |
//! | memory mapped for reading cannot be written to | the mapping is read-only, and copies onto it are refused |
//! | contexts cost something and belong to a card | each one that is made is a line in `contexts` |
//! | it fails, hangs or dies | the file `fault` says which call, how, and at which time |

mod calls;
mod cards;
mod table;

use std::{
    env, io,
    path::{Path, PathBuf},
};

/// Names the folder that stands for the cards.
pub const FOLDER: &str = "WEIGHTSD_STAND_IN";
/// The file in the folder that says how a call fails: `CALL HOW NUMBER`, such as `cuMemcpyHtoDAsync_v2 kill 3`. `HOW` is
/// `fail`, `kill`, `hang`, of copies `flip`, of `cuMemCreate` `full`; without the number it is the first call of a process.
pub const FAULT: &str = "fault";
/// The file in the folder with a line `PID CARD` for each context that was made.
pub const CONTEXTS: &str = "contexts";
/// Cards that there are.
pub const CARDS: u8 = 2;
/// The memory of each, in bytes.
pub const BYTES: u64 = 64 << 20;

/// The UUID of a card.
#[must_use]
pub const fn uuid(card: u8) -> [u8; 16] {
    [0x57, 0xa4, 0xd1, 0x40, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, card]
}

/// Bytes of a card's memory that somebody has, in whatever process.
///
/// # Errors
/// When the folder cannot be read.
pub fn used(folder: &Path, card: u8) -> io::Result<u64> {
    cards::used(folder, card)
}

/// The library beside the running test program.
#[must_use]
pub fn library() -> PathBuf {
    let name = format!("{}weightsd_gpu_stand_in{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX);
    let program = env::current_exe().unwrap_or_default();
    let folders = program.ancestors().skip(1).take(2);
    let places: Vec<PathBuf> =
        folders.flat_map(|folder| [folder.join(&name), folder.join("deps").join(&name)]).collect();
    places.iter().find(|place| place.exists()).unwrap_or(&places[0]).clone()
}

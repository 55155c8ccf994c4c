//! What this process has of the driver: handles, mappings, registered memory, counts for faults.

use std::{
    collections::{BTreeMap, HashMap},
    env,
    fs::{self, File, OpenOptions},
    io::Write as _,
    path::PathBuf,
    process,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{CONTEXTS, FAULT, FOLDER};

/// Memory behind a handle.
pub(crate) struct Allocation {
    pub(crate) card: u8,
    pub(crate) file: File,
    pub(crate) bytes: u64,
}

/// A reserved range of addresses.
#[derive(Clone, Copy, Default)]
pub(crate) struct Range {
    pub(crate) size: usize,
    pub(crate) is_mapped: bool,
    pub(crate) reads: bool,
    pub(crate) writes: bool,
}

#[derive(Default)]
pub(crate) struct Table {
    pub(crate) next: u64,
    pub(crate) handles: HashMap<u64, Allocation>,
    pub(crate) ranges: BTreeMap<u64, Range>,
    /// Length by address.
    pub(crate) registered: BTreeMap<usize, usize>,
    calls: BTreeMap<&'static str, u64>,
}

static TABLE: Mutex<Option<Table>> = Mutex::new(None);

/// The table, while nobody else uses it.
pub(crate) struct Locked(MutexGuard<'static, Option<Table>>);

pub(crate) fn table() -> Locked {
    let mut guard = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    guard.get_or_insert_with(Table::default);
    Locked(guard)
}

impl std::ops::Deref for Locked {
    type Target = Table;
    fn deref(&self) -> &Table {
        self.0.as_ref().expect("`table` has made it")
    }
}

impl std::ops::DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut Table {
        self.0.as_mut().expect("`table` has made it")
    }
}

impl Table {
    /// The range in which `length` bytes at `address` lie.
    pub(crate) fn around(&self, address: u64, length: usize) -> Option<Range> {
        let (&start, range) = self.ranges.range(..=address).next_back()?;
        let end = address.checked_add(length as u64)?;
        (end <= start + range.size as u64).then_some(*range)
    }

    /// Whether a byte of that memory is registered.
    pub(crate) fn is_registered(&self, address: usize, length: usize) -> bool {
        let before = self.registered.range(..address + length).next_back();
        before.is_some_and(|(&start, &size)| start + size > address)
    }
}

pub(crate) fn folder() -> PathBuf {
    env::var_os(FOLDER).map(PathBuf::from).unwrap_or_default()
}

/// How a call goes wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Fails,
    Fills,
    Flips,
}

/// What the file `fault` wants of this call. One that kills or hangs does not come back.
pub(crate) fn fault(call: &'static str) -> Option<Fault> {
    let number = {
        let mut table = table();
        let number = table.calls.entry(call).or_default();
        *number += 1;
        *number
    };
    let text = fs::read_to_string(folder().join(FAULT)).ok()?;
    let mut words = text.split_whitespace();
    let (named, how) = (words.next()?, words.next()?);
    let at: u64 = words.next().map_or(1, |at| at.parse().expect("the number of a call"));
    if named != call || number != at {
        return None;
    }
    match how {
        "fail" => Some(Fault::Fails),
        "full" => Some(Fault::Fills),
        "flip" => Some(Fault::Flips),
        "hang" => loop {
            std::thread::park();
        },
        "kill" => {
            let own = rustix::process::getpid();
            let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
            loop {
                std::thread::park();
            }
        }
        other => panic!("there is no fault {other}"),
    }
}

/// Notes that a context was made.
pub(crate) fn note_context(card: u8) {
    let file = OpenOptions::new().create(true).append(true).open(folder().join(CONTEXTS));
    // One write, so that lines of several processes do not mix.
    file.and_then(|mut file| file.write_all(format!("{} {card}\n", process::id()).as_bytes()))
        .expect("a folder of the test");
}

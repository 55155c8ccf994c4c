//! A disk that can be made to hang: a FUSE file system that shows a folder, read-only, served by a process of its own.
//! Stopping that process stops every system call on the disk, as a dead NFS server does. Only root can mount one.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsStr,
    fs::{self, File, Metadata},
    os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, MountOption,
    OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, Request,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::{harness::eventually, not_run::not_run};

const FOLDER: &str = "WEIGHTSD_TEST_FUSE_FOLDER";
const CLOSE: &str = "WEIGHTSD_TEST_FUSE_CLOSE";
const MOUNT: &str = "WEIGHTSD_TEST_FUSE_MOUNT";
/// Nothing is kept by the kernel: each look at the disk asks the server.
const NEVER: Duration = Duration::ZERO;

/// What the kernel does at each `close` of a file on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// It asks the server and waits, also when a process is killed.
    Asks,
    /// It asks once, and never again.
    IsSilent,
}

/// Lets a disk answer again when it is dropped: a daemon cannot be waited for otherwise.
#[must_use = "the disk answers again when it is dropped"]
pub struct Recovers<'a>(&'a FuseDisk);

impl Drop for Recovers<'_> {
    fn drop(&mut self) {
        self.0.recover();
    }
}

/// The disk. Gone when dropped; calls that wait for it fail then.
pub struct FuseDisk {
    server: Child,
    at: PathBuf,
}

impl FuseDisk {
    /// Shows `folder` at `at`; `None`, with a word, where nothing can be mounted and nobody requires it.
    pub fn mount(folder: &Path, at: &Path, close: Close) -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
            not_run("only root can mount a disk that hangs, and only with /dev/fuse");
            return None;
        }
        fs::create_dir_all(at).unwrap();
        let outside = fs::metadata(at).unwrap().dev();
        let server = Command::new(env::current_exe().unwrap())
            .args(["--exact", "fuse_disk::server", "--nocapture", "--ignored", "--test-threads=1"])
            .env(FOLDER, folder)
            .env(MOUNT, at)
            .env(CLOSE, format!("{close:?}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let disk = Self { server, at: at.to_owned() };
        eventually("the disk is mounted", || fs::metadata(at).is_ok_and(|metadata| metadata.dev() != outside));
        Some(disk)
    }

    /// From here on nothing on the disk answers.
    pub fn hang(&self) {
        self.signal(Signal::STOP);
        // A stop takes effect when the process is next scheduled.
        let status = format!("/proc/{}/stat", self.server.id());
        eventually("the server is stopped", || {
            fs::read_to_string(&status).unwrap().rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" T"))
        });
    }

    /// The disk answers again when the guard is dropped.
    pub fn recovers(&self) -> Recovers<'_> {
        Recovers(self)
    }

    /// The disk answers again, also what was asked meanwhile.
    pub fn recover(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.server), signal).unwrap();
    }
}

impl Drop for FuseDisk {
    fn drop(&mut self) {
        // The end of the server ends the disk: whatever waits for it gets an error.
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

/// The folder, by the numbers that the kernel knows its files under.
struct Shown {
    paths: Mutex<BTreeMap<u64, PathBuf>>,
    close: Close,
}

impl Shown {
    fn path(&self, number: INodeNo) -> Result<PathBuf, Errno> {
        let paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        paths.get(&number.0).cloned().ok_or(Errno::ENOENT)
    }

    fn look(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let path = self.path(parent)?.join(name);
        let metadata = fs::symlink_metadata(&path)?;
        self.paths.lock().unwrap_or_else(PoisonError::into_inner).insert(metadata.ino(), path);
        Ok(attributes(INodeNo(metadata.ino()), &metadata))
    }

    fn attributes(&self, number: INodeNo) -> Result<FileAttr, Errno> {
        Ok(attributes(number, &fs::symlink_metadata(self.path(number)?)?))
    }

    fn read(&self, number: INodeNo, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let mut buffer = vec![0; size as usize];
        let file = File::open(self.path(number)?)?;
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read_at(&mut buffer[filled..], offset + filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        buffer.truncate(filled);
        Ok(buffer)
    }
}

fn attributes(number: INodeNo, metadata: &Metadata) -> FileAttr {
    let time = |seconds: i64, rest: i64| {
        SystemTime::UNIX_EPOCH + Duration::new(seconds.unsigned_abs(), u32::try_from(rest).unwrap())
    };
    FileAttr {
        ino: number,
        size: metadata.size(),
        blocks: metadata.blocks(),
        atime: time(metadata.atime(), metadata.atime_nsec()),
        mtime: time(metadata.mtime(), metadata.mtime_nsec()),
        ctime: time(metadata.ctime(), metadata.ctime_nsec()),
        crtime: SystemTime::UNIX_EPOCH,
        kind: kind(metadata.file_type()),
        perm: (metadata.mode() & 0o7777) as u16,
        nlink: u32::try_from(metadata.nlink()).unwrap(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn kind(kind: fs::FileType) -> FileType {
    match kind {
        kind if kind.is_dir() => FileType::Directory,
        kind if kind.is_symlink() => FileType::Symlink,
        kind if kind.is_fifo() => FileType::NamedPipe,
        _ => FileType::RegularFile,
    }
}

impl Filesystem for Shown {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.look(parent, name) {
            Ok(found) => reply.entry(&NEVER, &found, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(number) {
            Ok(found) => reply.attr(&NEVER, &found),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        match self.path(number).and_then(|path| Ok(fs::read_link(path)?)) {
            Ok(target) => reply.data(target.as_os_str().as_encoded_bytes()),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.read(number, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    // One that is not implemented is not asked for again.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        match self.close {
            Close::Asks => reply.ok(),
            Close::IsSilent => reply.error(Errno::ENOSYS),
        }
    }

    fn readdir(&self, _: &Request, number: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let list = || -> Result<Vec<_>, Errno> { Ok(fs::read_dir(self.path(number)?)?.flatten().collect()) };
        let entries = match list() {
            Ok(entries) => entries,
            Err(error) => return reply.error(error),
        };
        for (next, entry) in (1..).zip(&entries).skip(usize::try_from(offset).unwrap()) {
            let (Ok(metadata), name) = (entry.metadata(), entry.file_name()) else { continue };
            if reply.add(INodeNo(metadata.ino()), next, kind(metadata.file_type()), name) {
                break;
            }
        }
        reply.ok();
    }
}

#[test]
#[ignore = "not a test: the server of a disk of other tests"]
fn server() {
    let (Some(folder), Some(at)) = (env::var_os(FOLDER), env::var_os(MOUNT)) else { return };
    let paths = BTreeMap::from([(INodeNo::ROOT.0, PathBuf::from(folder))]);
    let mut config = Config::default();
    config.mount_options = vec![MountOption::RO, MountOption::FSName("weightsd-story".to_owned())];
    let close = if env::var(CLOSE).unwrap() == format!("{:?}", Close::Asks) { Close::Asks } else { Close::IsSilent };
    fuser::mount(Shown { paths: Mutex::new(paths), close }, at, &config).unwrap();
}

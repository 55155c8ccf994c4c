//! A file system of its own, which is small. Only root can mount one.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

#[cfg(target_os = "linux")]
use crate::harness::eventually;
use crate::not_run::not_run;

/// Gone when dropped.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// One of that many MiB; `None`, with a word, where nothing can be mounted and nobody requires it.
    pub fn mount(at: &Path, mebibytes: u32) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let options = format!("size={mebibytes}m,mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "weightsd-story"]).arg(at).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(at.to_owned()));
        }
        not_run("only root can mount a small disk");
        None
    }

    /// Lets nobody write to it any more.
    #[cfg(target_os = "linux")]
    pub fn freeze(&self) {
        // Refused while a file is open for writing.
        let freeze = || Command::new("mount").args(["-o", "remount,ro"]).arg(&self.0).output().unwrap();
        eventually("the disk is read-only", || freeze().status.success());
    }

    /// Fills it to the last page, and returns the file that does.
    pub fn fill(&self) -> PathBuf {
        let path = self.0.join("ballast");
        let mut ballast = fs::File::create(&path).unwrap();
        for piece in [1 << 16, 1 << 12] {
            while ballast.write_all(&vec![1; piece]).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

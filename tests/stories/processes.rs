//! What a test may learn of another process. Linux shows it in `/proc`, macOS through its tools.

use std::path::PathBuf;

/// The files that a process has open.
pub fn descriptors_of(pid: u32) -> Vec<PathBuf> {
    platform::descriptors_of(pid)
}

/// The child of a process whose command has this word.
pub fn child_with(parent: u32, word: &str) -> Option<u32> {
    platform::child_with(parent, word)
}

/// Whether a process has ended, waited for or not.
pub fn has_ended(pid: u32) -> bool {
    platform::has_ended(pid)
}

#[cfg(target_os = "linux")]
mod platform {
    use std::{fs, path::PathBuf};

    pub(super) fn descriptors_of(pid: u32) -> Vec<PathBuf> {
        let folder = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        // One that was closed since is none.
        folder.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok()).collect()
    }

    /// The words of `stat` after the name in brackets: state, parent, ...
    fn stat(pid: u32) -> Option<Vec<String>> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
    }

    pub(super) fn child_with(parent: u32, word: &str) -> Option<u32> {
        let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
        let processes = processes.filter_map(|name| name.to_str()?.parse::<u32>().ok());
        let is_child = |pid: &u32| stat(*pid).is_some_and(|stat| stat.get(1) == Some(&parent.to_string()));
        processes.filter(is_child).find(|pid| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.split(|byte| *byte == 0).any(|part| part == word.as_bytes())
        })
    }

    pub(super) fn has_ended(pid: u32) -> bool {
        stat(pid).is_none_or(|stat| matches!(stat.first().map(String::as_str), None | Some("Z" | "X")))
    }
}

#[cfg(target_os = "macos")]
mod platform {
    use std::{path::PathBuf, process::Command};

    fn said(program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(super) fn descriptors_of(pid: u32) -> Vec<PathBuf> {
        let listed = said("lsof", &["-a", "-p", &pid.to_string(), "-Fn"]);
        listed.lines().filter_map(|line| line.strip_prefix('n')).map(PathBuf::from).collect()
    }

    pub(super) fn child_with(parent: u32, word: &str) -> Option<u32> {
        said("pgrep", &["-P", &parent.to_string(), "-f", word]).lines().next()?.parse().ok()
    }

    pub(super) fn has_ended(pid: u32) -> bool {
        let state = said("ps", &["-o", "state=", "-p", &pid.to_string()]);
        state.trim().is_empty() || state.trim().starts_with('Z')
    }
}

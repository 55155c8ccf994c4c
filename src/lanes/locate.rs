//! Which disk a path leads to. Links are followed one by one, and a link that leads to another disk is followed there, in
//! that disk's lane: the walk itself must not hang in the lane of a healthy disk.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use weightsd_segment::mounts::Mounts;

use super::MayBlock;

/// How long a table of mounts is taken for the present one.
pub(super) const TABLE_FRESH: Duration = Duration::from_secs(1);
/// The disk of a path before the table of mounts was read.
pub(super) const UNKNOWN: u64 = 0;
/// Disks that the paths of one request are followed to.
pub(super) const DISKS_MAX: usize = 64;
/// Links that are followed, as the kernel does.
const LINKS_MAX: usize = 40;

/// Follows `path` on the disk `home`; the path on another disk to which it leads, or `None` when it ends here.
pub(super) fn leaves(path: PathBuf, home: u64, mounts: &Mounts, _: &MayBlock<'_>) -> Option<PathBuf> {
    let elsewhere = |path: &Path| mounts.of(path).is_some_and(|mount| mount.device != home);
    if elsewhere(&path) {
        return Some(path);
    }
    let mut done = PathBuf::from("/");
    let mut rest = parts(&path);
    let mut links = 0;
    while let Some(part) = rest.pop_front() {
        if part == ".." {
            done.pop();
            continue;
        }
        let next = done.join(&part);
        let Ok(target) = fs::read_link(&next) else {
            // A directory, a file, or nothing: what follows lies below it.
            done = next;
            continue;
        };
        links += 1;
        if links > LINKS_MAX {
            return None;
        }
        let mut onward = parts(&target);
        if target.is_absolute() {
            done = PathBuf::from("/");
        }
        onward.append(&mut rest);
        rest = onward;
        let whole = rest.iter().fold(done.clone(), |path, part| match part == ".." {
            true => path.parent().map(Path::to_owned).unwrap_or_default(),
            false => path.join(part),
        });
        if elsewhere(&whole) {
            return Some(whole);
        }
    }
    None
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let part = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    #[test]
    fn links_are_followed_to_the_disk_that_they_lead_to() {
        let folder = tempfile::tempdir().unwrap();
        let home = fs::metadata(folder.path()).unwrap().dev();
        let mounts = Mounts::read().unwrap();
        let follow = |path: PathBuf| leaves(path, home, &mounts, &MayBlock::on_a_thread_of_its_own());
        fs::create_dir(folder.path().join("here")).unwrap();
        symlink("here", folder.path().join("near")).unwrap();
        symlink("/proc/self", folder.path().join("far")).unwrap();
        symlink("near/../far/fd", folder.path().join("chain")).unwrap();
        symlink("round", folder.path().join("round")).unwrap();
        assert_eq!(follow(folder.path().join("near/absent/x")), None);
        assert_eq!(follow(folder.path().join("round/x")), None);
        assert_eq!(follow(folder.path().join("far/fd")), Some(PathBuf::from("/proc/self/fd")));
        assert_eq!(follow(folder.path().join("chain/0")), Some(PathBuf::from("/proc/self/fd/0")));
        assert_eq!(follow(PathBuf::from("/proc/1")), Some(PathBuf::from("/proc/1")));
    }
}

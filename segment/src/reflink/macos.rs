//! `fclonefileat`, which wants a name. The name is taken away at once.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::fs::{CWD, CloneFlags, fclonefileat};

static NUMBER: AtomicU64 = AtomicU64::new(0);

pub(super) fn clone_of(file: &File, folder: &Path) -> io::Result<File> {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!(".weightsd-{}-{number}.clone", std::process::id()));
    fclonefileat(file, CWD, &path, CloneFlags::NOFOLLOW)?;
    let opened = fs::set_permissions(&path, Permissions::from_mode(0o400)).and_then(|()| File::open(&path));
    let removed = fs::remove_file(&path);
    let opened = opened?;
    removed?;
    Ok(opened)
}

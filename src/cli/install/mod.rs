//! `weightsd install` and `weightsd uninstall`: the service manager's files, filled in from the templates in `launchd/` and
//! `systemd/`. What is done is decided in [`plan`]; here it is done, or shown. [`load`] has the service manager take the files.

mod load;
mod plan;

use std::{
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use weightsd_core::places::Platform;
use weightsd_segment::environment::variable;

use self::plan::{Folder, Installation, Removal, Surroundings};
use super::args::{Install, InstallPlatform};
use crate::private::{self, Links, Others};

/// Writes the files, or shows them.
pub(super) fn install(command: &Install) -> anyhow::Result<ExitCode> {
    let platform = platform(command)?;
    let installation = Installation::new(platform, &surroundings()?)?;
    let mut out = io::stdout().lock();
    if command.dry_run {
        show(&installation, &mut out)?;
        return Ok(ExitCode::SUCCESS);
    }
    make(&installation, &mut out)?;
    if command.no_load {
        write!(out, "{}", installation.by_hand)?;
    } else {
        load::load(&installation.steps, &mut out)?;
        load::check(&installation.socket, &mut out)?;
    }
    write!(out, "{}", installation.words)?;
    Ok(ExitCode::SUCCESS)
}

/// Removes the files, or shows which.
pub(super) fn uninstall(command: &Install) -> anyhow::Result<ExitCode> {
    let platform = platform(command)?;
    let removal = Removal::new(platform, &surroundings()?);
    let mut out = io::stdout().lock();
    if command.dry_run {
        for file in &removal.files {
            writeln!(out, "would remove {}", file.display())?;
        }
        write!(out, "{}", removal.words)?;
    } else {
        let steps = |steps: &[plan::Step], out: &mut io::StdoutLock<'_>| match command.no_load {
            true => Ok(()),
            false => load::load(steps, out),
        };
        steps(&removal.before, &mut out)?;
        remove(&removal, &mut out)?;
        steps(&removal.after, &mut out)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn platform(command: &Install) -> anyhow::Result<Platform> {
    let platform = match command.platform {
        Some(InstallPlatform::Linux) => Platform::Linux,
        Some(InstallPlatform::Macos) => Platform::MacOs,
        None => Platform::current(),
    };
    let is_here = platform == Platform::current();
    anyhow::ensure!(is_here || command.dry_run, "what belongs to another system can only be shown, with --dry-run");
    Ok(platform)
}

fn surroundings() -> anyhow::Result<Surroundings> {
    Ok(Surroundings {
        home: PathBuf::from(variable("HOME").context("this user has no home directory")?),
        program: env::current_exe().context("the path of this program")?,
        uid: rustix::process::getuid().as_raw(),
        socket_variable: variable("WEIGHTSD_SOCKET").map(PathBuf::from),
        runtime_folder: variable("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|folder| folder.is_absolute()),
    })
}

fn show(installation: &Installation, out: &mut impl Write) -> io::Result<()> {
    for Folder { path, is_ours } in &installation.folders {
        let mode = if *is_ours { ", mode 0700" } else { "" };
        writeln!(out, "# {} (a folder{mode})\n", path.display())?;
    }
    for unit in &installation.units {
        writeln!(out, "# {}\n{}", unit.path.display(), unit.text)?;
    }
    write!(out, "{}{}", installation.by_hand.trim_start(), installation.words)
}

/// Makes folders and files, and says so.
fn make(installation: &Installation, out: &mut impl Write) -> anyhow::Result<()> {
    for folder in &installation.folders {
        if folder.is_ours {
            private::make_or_close(&folder.path)?;
        } else {
            private::make(&folder.path, Others::Readers, Links::Followed)?;
        }
        writeln!(out, "made sure of {}", folder.path.display())?;
    }
    for unit in &installation.units {
        let at = || format!("cannot write `{}`", unit.path.display());
        if let Some(folder) = unit.path.parent() {
            fs::create_dir_all(folder).with_context(at)?;
        }
        write_whole(&unit.path, &unit.text).with_context(at)?;
        writeln!(out, "wrote {}", unit.path.display())?;
    }
    Ok(())
}

/// Writes a file that a service manager may be reading: it sees the old one or the new one.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    // launchd ignores a plist that others may write to, and needs no secret.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(mode)?;
    file.persist(path)?;
    Ok(())
}

/// Removes files and links, and says which were there.
fn remove(removal: &Removal, out: &mut impl Write) -> anyhow::Result<()> {
    let mut was_there = false;
    for file in &removal.files {
        match fs::remove_file(file) {
            Ok(()) => {
                was_there = true;
                writeln!(out, "removed {}", file.display())?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot remove `{}`", file.display())),
        }
    }
    if !was_there {
        writeln!(out, "nothing was installed: there is no {}", removal.files[removal.files.len() - 1].display())?;
        return Ok(());
    }
    Ok(write!(out, "{}", removal.words)?)
}

#[cfg(test)]
mod tests;

//! `weightsd install` and `weightsd uninstall`, typed by somebody. What the other system gets is tested beside the code,
//! where both platforms are.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use crate::harness::{Home, PROGRAM};

/// Runs a command that succeeds, and returns what it prints.
fn said(home: &Home, arguments: &[&str]) -> String {
    let output = home.command().env_remove("WEIGHTSD_SOCKET").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Every file and folder below the home but those of the test itself.
fn everything(home: &Home) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![home.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path.clone());
            }
            found.push(path);
        }
    }
    found
}

#[test]
fn a_dry_run_shows_both_systems_and_writes_nothing() {
    let home = Home::new();
    for (platform, file) in [("linux", "weightsd.socket"), ("macos", "dev.weightsd.plist")] {
        let shown = said(&home, &["install", "--dry-run", "--platform", platform]);
        assert!(shown.contains(file) && shown.contains(PROGRAM), "{shown}");
        let shown = said(&home, &["uninstall", "--dry-run", "--platform", platform]);
        assert!(shown.contains(&format!("{file}\n")), "{shown}");
    }
    assert_eq!(everything(&home), [] as [PathBuf; 0]);
    let other = if cfg!(target_os = "macos") { "linux" } else { "macos" };
    let refused = home.command().args(["install", "--platform", other]).output().unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--dry-run"), "{refused:?}");
    assert_eq!(everything(&home), [] as [PathBuf; 0]);
}

#[test]
fn what_is_installed_is_taken_back() {
    let home = Home::new();
    let wrote = said(&home, &["install"]);
    let files: Vec<PathBuf> = wrote.lines().filter_map(|line| line.strip_prefix("wrote ")).map(PathBuf::from).collect();
    assert!(!files.is_empty(), "{wrote}");
    for file in &files {
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o644, "{}", file.display());
    }
    said(&home, &["install"]);
    let removed = said(&home, &["uninstall"]);
    for file in &files {
        assert!(!file.exists() && removed.contains(&format!("removed {}\n", file.display())), "{removed}");
    }
    assert!(said(&home, &["uninstall"]).starts_with("nothing was installed"));
}

#[cfg(target_os = "linux")]
#[test]
fn systemd_understands_the_units() {
    use std::process::{Command, Stdio};

    use crate::not_run::not_run;

    const VERIFY: &str = "systemd-analyze";
    if Command::new(VERIFY).arg("--version").stdout(Stdio::null()).status().is_err() {
        return not_run(&format!("there is no {VERIFY}"));
    }
    let home = Home::new();
    said(&home, &["install"]);
    let folder = home.path().join(".config/systemd/user");
    let mut command = home.around(Command::new(VERIFY));
    command.env("XDG_RUNTIME_DIR", home.path()).arg("--user").arg("verify");
    let judged = command.args(["weightsd.socket", "weightsd.service"].map(|name| folder.join(name))).output().unwrap();
    let words = String::from_utf8_lossy(&judged.stderr);
    assert!(judged.status.success() && !words.contains("weightsd"), "{words}");
}

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
    let wrote = said(&home, &["install", "--no-load"]);
    assert!(wrote.contains("now run"), "{wrote}");
    let files: Vec<PathBuf> = wrote.lines().filter_map(|line| line.strip_prefix("wrote ")).map(PathBuf::from).collect();
    assert!(!files.is_empty(), "{wrote}");
    for file in &files {
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o644, "{}", file.display());
    }
    said(&home, &["install", "--no-load"]);
    let removed = said(&home, &["uninstall", "--no-load"]);
    for file in &files {
        assert!(!file.exists() && removed.contains(&format!("removed {}\n", file.display())), "{removed}");
    }
    assert!(said(&home, &["uninstall", "--no-load"]).starts_with("nothing was installed"));
}

/// A `systemctl` of this test: it notes what it is told, and starts the daemon as `enable --now` and a connection would.
#[cfg(target_os = "linux")]
const SYSTEMCTL: &str = r#"#!/bin/sh
echo "$*" >> "$HOME/told"
case "$*" in
    *"$REFUSES"*) echo "Failed to connect to bus: No medium found" >&2; exit 1 ;;
    *enable*)
        socket="$XDG_RUNTIME_DIR/weightsd/weightsd.sock"
        WEIGHTSD_SOCKET="$socket" "$PROGRAM" serve >/dev/null 2>&1 &
        echo $! > "$HOME/pid"
        until [ -S "$socket" ]; do sleep 0.05; done ;;
esac
"#;

#[cfg(target_os = "linux")]
#[test]
fn an_installation_is_loaded_and_asked_and_a_service_manager_that_refuses_is_quoted() {
    use rustix::process::{Pid, Signal, kill_process};

    let home = Home::new();
    let systemctl = home.path().join("systemctl");
    fs::write(&systemctl, SYSTEMCTL).unwrap();
    fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", home.path().display(), std::env::var("PATH").unwrap());
    let run = |arguments: &[&str], refuses: &str| {
        let mut command = home.command();
        command.env_remove("WEIGHTSD_SOCKET").env("XDG_RUNTIME_DIR", home.path()).env("PATH", &path);
        command.args(arguments).env("PROGRAM", PROGRAM).env("REFUSES", refuses).output().unwrap()
    };
    let refused = run(&["install"], "daemon-reload");
    let text = String::from_utf8(refused.stderr).unwrap();
    for words in ["did not take them", "`systemctl --user daemon-reload` failed: Failed to connect to bus", "--no-load"]
    {
        assert!(!refused.status.success() && text.contains(words), "{text}");
    }
    let installed = run(&["install"], "nothing");
    let text = String::from_utf8(installed.stdout).unwrap();
    let pid = fs::read_to_string(home.path().join("pid")).unwrap();
    let answers = format!("(pid {}) answers on {}", pid.trim(), home.path().join("weightsd/weightsd.sock").display());
    assert!(
        installed.status.success() && text.contains(&answers),
        "{text}{}",
        String::from_utf8_lossy(&installed.stderr)
    );
    kill_process(Pid::from_raw(pid.trim().parse().unwrap()).unwrap(), Signal::TERM).unwrap();
    let removed = String::from_utf8(run(&["uninstall"], "disable").stdout).unwrap();
    assert!(removed.contains("disable --now weightsd.socket weightsd.service, which did nothing: Failed"), "{removed}");
    let told = fs::read_to_string(home.path().join("told")).unwrap();
    assert!(told.ends_with("disable --now weightsd.socket weightsd.service\n--user daemon-reload\n"), "{told}");
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
    said(&home, &["install", "--no-load"]);
    let folder = home.path().join(".config/systemd/user");
    let mut command = home.around(Command::new(VERIFY));
    command.env("XDG_RUNTIME_DIR", home.path()).arg("--user").arg("verify");
    let judged = command.args(["weightsd.socket", "weightsd.service"].map(|name| folder.join(name))).output().unwrap();
    let words = String::from_utf8_lossy(&judged.stderr);
    assert!(judged.status.success() && !words.contains("weightsd"), "{words}");
}

#[cfg(target_os = "linux")]
#[test]
fn systemd_understands_the_units_of_the_whole_machine_and_their_sandbox() {
    use std::process::Command;

    const JUDGE: &str = "systemd-analyze";
    // Of a hundred; without any sandbox it is above ninety.
    const EXPOSURE_MAX: &str = "--threshold=25";
    let home = Home::new();
    let judge = |arguments: &[&str], units: &[PathBuf]| {
        let mut command = home.around(Command::new(JUDGE));
        command.env("XDG_RUNTIME_DIR", home.path()).args(arguments).args(units).output()
    };
    if judge(&["--version"], &[]).is_err() {
        return crate::not_run::not_run(&format!("there is no {JUDGE}"));
    }
    let shipped = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("systemd/system");
    let units = ["weightsd.socket", "weightsd.service"].map(|name| {
        let text = fs::read_to_string(shipped.join(name)).unwrap();
        let unit = home.path().join(name);
        fs::write(&unit, text.replace("/usr/local/bin/weightsd", PROGRAM)).unwrap();
        unit
    });
    assert!(fs::read_to_string(&units[1]).unwrap().contains(&format!("ExecStart={PROGRAM} serve --activated\n")));
    let verified = judge(&["verify"], &units).unwrap();
    let words = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && !words.contains("weightsd"), "{words}");
    let weighed = judge(&["security", "--offline=true", EXPOSURE_MAX], &units[1..]).unwrap();
    assert!(weighed.status.success(), "{}", String::from_utf8_lossy(&weighed.stdout));
}

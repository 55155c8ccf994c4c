//! `weightsd install`: the service manager's files, filled in from the templates in `launchd/` and `systemd/`.

use std::{env, fs, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use weightsd_core::places::{self, Platform};
use weightsd_segment::environment::variable;

use super::{
    args::{Install, InstallPlatform},
    output::print,
};

const PLIST: &str = include_str!("../../launchd/dev.weightsd.plist");
const SOCKET_UNIT: &str = include_str!("../../systemd/weightsd.socket");
const SERVICE_UNIT: &str = include_str!("../../systemd/weightsd.service");

/// A file to write.
#[derive(Debug)]
struct Unit {
    path: PathBuf,
    text: String,
}

pub(super) fn run(command: &Install) -> anyhow::Result<ExitCode> {
    let platform = match command.platform {
        Some(InstallPlatform::Linux) => Platform::Linux,
        Some(InstallPlatform::Macos) => Platform::MacOs,
        None => Platform::current(),
    };
    let home = PathBuf::from(variable("HOME").context("this user has no home directory")?);
    let program = env::current_exe().context("the path of this program")?;
    let program = program.to_str().context("the path of this program is not UTF-8")?;
    let units = match platform {
        Platform::MacOs => vec![launch_agent(&home, program)?],
        Platform::Linux => systemd_units(&home, program),
    };
    if command.dry_run {
        for unit in &units {
            print(format_args!("# {}\n{}", unit.path.display(), unit.text))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    anyhow::ensure!(platform == Platform::current(), "units of another system can only be shown, with --dry-run");
    for unit in &units {
        let at = || format!("cannot write `{}`", unit.path.display());
        if let Some(folder) = unit.path.parent() {
            fs::create_dir_all(folder).with_context(at)?;
        }
        fs::write(&unit.path, &unit.text).with_context(at)?;
        print(format_args!("wrote {}", unit.path.display()))?;
    }
    print(match platform {
        Platform::MacOs => "now run: launchctl bootstrap gui/$UID ~/Library/LaunchAgents/dev.weightsd.plist",
        Platform::Linux => "now run: systemctl --user daemon-reload && systemctl --user enable --now weightsd.socket",
    })?;
    Ok(ExitCode::SUCCESS)
}

fn launch_agent(home: &std::path::Path, program: &str) -> anyhow::Result<Unit> {
    let variable = |name: &str| match name {
        // launchd reads the plist without this shell's variables.
        "HOME" => Some(home.display().to_string()),
        _ => None,
    };
    let socket = places::socket(&variable, rustix::process::getuid().as_raw(), Platform::MacOs);
    places::check_socket_path(&socket, Platform::MacOs)?;
    let log = home.join("Library/Logs/weightsd.log");
    let text = PLIST
        .replace("@PROGRAM@", &xml(program))
        .replace("@SOCKET@", &xml(&socket.display().to_string()))
        .replace("@LOG@", &xml(&log.display().to_string()));
    Ok(Unit { path: home.join("Library/LaunchAgents/dev.weightsd.plist"), text })
}

fn systemd_units(home: &std::path::Path, program: &str) -> Vec<Unit> {
    let folder = home.join(".config/systemd/user");
    let program = program.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    vec![
        Unit { path: folder.join("weightsd.socket"), text: SOCKET_UNIT.to_owned() },
        Unit { path: folder.join("weightsd.service"), text: SERVICE_UNIT.replace("@PROGRAM@", &program) },
    ]
}

fn xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_plist_is_one_and_names_this_program() {
        let unit = launch_agent(Path::new("/Users/a & b"), "/opt/<x>/weightsd").unwrap();
        let plist: plist::Dictionary = plist::from_bytes(unit.text.as_bytes()).unwrap();
        let arguments = plist["ProgramArguments"].as_array().unwrap();
        assert_eq!(arguments[0].as_string(), Some("/opt/<x>/weightsd"));
        let socket = plist["Sockets"].as_dictionary().unwrap()["Listener"].as_dictionary().unwrap();
        let path = socket["SockPathName"].as_string().unwrap();
        assert_eq!(path, "/Users/a & b/Library/Application Support/weightsd/weightsd.sock");
        assert_eq!(socket["SockPathMode"].as_signed_integer(), Some(0o600));
    }

    #[test]
    fn systemd_starts_this_program() {
        let units = systemd_units(Path::new("/home/a"), "/opt/100%/weightsd");
        assert!(units[1].text.contains("\nExecStart=\"/opt/100%%/weightsd\" serve --activated\n"));
        assert!(units.iter().all(|unit| !unit.text.lines().any(|line| !line.starts_with('#') && line.contains('@'))));
    }
}

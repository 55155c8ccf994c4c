use std::{
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    process::Command,
    time::Duration,
};

use super::{plan::Step, *};
use crate::daemon::Settings;

fn ada() -> Surroundings {
    Surroundings {
        home: "/Users/ada".into(),
        program: "/Users/ada/.cargo/bin/weightsd".into(),
        uid: 501,
        socket_variable: None,
        runtime_folder: None,
    }
}

/// Somebody whose home is a folder of this test.
fn at(home: &Path) -> Surroundings {
    Surroundings { home: home.to_owned(), ..ada() }
}

fn shown(platform: Platform, around: &Surroundings) -> String {
    let mut out = Vec::new();
    show(&Installation::new(platform, around).unwrap(), &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn golden(name: &str, said: &str) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, said).unwrap();
    }
    let expected = fs::read_to_string(&golden).unwrap_or_default();
    assert!(said == expected, "{} differs (UPDATE_GOLDEN=1 takes this):\n{said}", golden.display());
}

#[test]
fn each_service_manager_gets_its_files_and_its_words() {
    golden("install-macos.txt", &shown(Platform::MacOs, &ada()));
    golden("install-linux.txt", &shown(Platform::Linux, &ada()));
    for (name, platform) in [("uninstall-macos.txt", Platform::MacOs), ("uninstall-linux.txt", Platform::Linux)] {
        let removal = Removal::new(platform, &ada());
        let files: String = removal.files.iter().map(|file| format!("{}\n", file.display())).collect();
        golden(name, &(files + &removal.words));
    }
}

#[test]
fn the_plist_is_one_and_names_this_program() {
    let around = Surroundings { home: "/Users/a & b".into(), program: "/opt/<x>/weightsd".into(), ..ada() };
    let installation = Installation::new(Platform::MacOs, &around).unwrap();
    let plist: plist::Dictionary = plist::from_bytes(installation.units[0].text.as_bytes()).unwrap();
    let strings = |value: &plist::Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|value| value.as_string().unwrap().to_owned()).collect()
    };
    let arguments =
        ["/opt/<x>/weightsd", "serve", "--activated", "--log-file", "/Users/a & b/Library/Logs/weightsd.log"];
    assert_eq!(strings(&plist["ProgramArguments"]), arguments);
    assert_eq!(strings(&plist["LimitLoadToSessionType"]), ["Aqua", "Background"]);
    let socket = plist["Sockets"].as_dictionary().unwrap()["Listener"].as_dictionary().unwrap();
    let path = socket["SockPathName"].as_string().unwrap();
    assert_eq!(path, "/Users/a & b/Library/Application Support/weightsd/weightsd.sock");
    assert_eq!(socket["SockPathMode"].as_signed_integer(), Some(0o600));
    // launchd kills what takes longer. The watchdog, which says what hung, has to come first.
    let killed_after = Duration::from_secs(plist["ExitTimeOut"].as_unsigned_integer().unwrap());
    let grace = Settings::table().into_iter().find(|row| row.name == "grace").unwrap();
    assert_eq!(grace.default, "5s", "launchd has to allow more than that, and than the watchdog does");
    assert!(killed_after >= Duration::from_secs(15), "{killed_after:?}");
    assert_eq!(plist["ProcessType"].as_string(), Some("Interactive"));
    let limits = plist["SoftResourceLimits"].as_dictionary().unwrap();
    assert!(limits["NumberOfFiles"].as_unsigned_integer().unwrap() > 256);
    assert_eq!(installation.folders[0].path, Path::new(path).parent().unwrap());
}

/// The agent is ended before another one is started, and before its file goes: launchd would keep the old one.
#[test]
fn launchd_ends_the_agent_before_anything_else() {
    let words = |steps: &[Step]| -> Vec<String> {
        steps
            .iter()
            .map(|step| format!("{}{}", step.words.join(" "), if step.may_fail { ", or not" } else { "" }))
            .collect()
    };
    let installation = Installation::new(Platform::MacOs, &ada()).unwrap();
    let bootout = "launchctl bootout gui/501/dev.weightsd, or not";
    let bootstrap = "launchctl bootstrap gui/501 /Users/ada/Library/LaunchAgents/dev.weightsd.plist";
    assert_eq!(words(&installation.steps), [bootout, bootstrap]);
    let removal = Removal::new(Platform::MacOs, &ada());
    assert_eq!((words(&removal.before), words(&removal.after)), (vec![bootout.to_owned()], vec![]));
}

#[test]
fn systemd_starts_this_program() {
    let around = Surroundings { program: "/opt/100%/weightsd".into(), ..ada() };
    let units = Installation::new(Platform::Linux, &around).unwrap().units;
    assert!(units[1].text.contains("\nExecStart=\"/opt/100%%/weightsd\" serve --activated\n"));
    assert!(units.iter().all(|unit| !unit.text.lines().any(|line| !line.starts_with('#') && line.contains('@'))));
}

#[test]
fn on_a_fresh_mac_the_folders_are_made_and_an_uninstall_takes_back_the_agent() {
    let home = tempfile::tempdir().unwrap();
    let around = at(home.path());
    let installation = Installation::new(Platform::MacOs, &around).unwrap();
    make(&installation, &mut Vec::new()).unwrap();
    let mode = |path: &str| fs::metadata(home.path().join(path)).unwrap().mode() & 0o7777;
    assert_eq!(mode("Library/Application Support/weightsd"), 0o700);
    assert_eq!(mode("Library/Logs"), 0o700);
    assert_eq!(mode("Library/LaunchAgents/dev.weightsd.plist"), 0o644);
    let said = installation.by_hand.as_str();
    for command in ["launchctl bootout gui/501/dev.weightsd 2>/dev/null", "launchctl bootstrap gui/501 '/"] {
        assert!(said.contains(command), "{said}");
    }

    // A second time nothing is in the way.
    make(&installation, &mut Vec::new()).unwrap();
    let removal = Removal::new(Platform::MacOs, &around);
    let mut said = Vec::new();
    remove(&removal, &mut said).unwrap();
    assert!(!home.path().join("Library/LaunchAgents/dev.weightsd.plist").exists());
    assert!(home.path().join("Library/Application Support/weightsd").exists());
    assert!(String::from_utf8(said).unwrap().contains("launchctl bootout gui/501/dev.weightsd"));
    let mut said = Vec::new();
    remove(&removal, &mut said).unwrap();
    assert!(String::from_utf8(said).unwrap().starts_with("nothing was installed"));
}

#[test]
fn a_folder_of_the_socket_that_others_enter_is_closed_and_a_link_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("Library/Application Support/weightsd");
    fs::create_dir_all(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    let installation = Installation::new(Platform::MacOs, &at(home.path())).unwrap();
    make(&installation, &mut Vec::new()).unwrap();
    assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o7777, 0o700);

    fs::remove_dir(&folder).unwrap();
    symlink(home.path(), &folder).unwrap();
    let error = make(&installation, &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("is a link"), "{error}");

    // launchd would start nothing whose log it cannot open.
    fs::remove_file(&folder).unwrap();
    let logs = home.path().join("Library/Logs");
    if std::os::unix::fs::chown(&logs, Some(4321), None).is_ok() {
        let error = make(&installation, &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("Logs` belongs to uid 4321"), "{error}");
    }
}

#[test]
fn on_linux_the_units_are_written_and_the_link_of_systemctl_goes_with_them() {
    let home = tempfile::tempdir().unwrap();
    let around = at(home.path());
    let installation = Installation::new(Platform::Linux, &around).unwrap();
    make(&installation, &mut Vec::new()).unwrap();
    let folder = home.path().join(".config/systemd/user");
    assert!(folder.join("weightsd.service").is_file());
    fs::create_dir(folder.join("sockets.target.wants")).unwrap();
    let link = folder.join("sockets.target.wants/weightsd.socket");
    symlink(folder.join("weightsd.socket"), &link).unwrap();
    remove(&Removal::new(Platform::Linux, &around), &mut Vec::new()).unwrap();
    for name in ["weightsd.socket", "weightsd.service"] {
        assert!(!folder.join(name).exists());
    }
    assert!(link.symlink_metadata().is_err());
}

#[test]
fn what_cannot_work_is_said_before_it_is_tried() {
    let warned = |around: &Surroundings, words: &str| {
        let said = shown(Platform::MacOs, around);
        assert!(said.contains(words), "{said}");
    };
    let program = |path: &str| Surroundings { program: path.into(), ..ada() };
    warned(&program("/Users/ada/Downloads/weightsd"), "this program lies in ~/Downloads");
    warned(&program("/Volumes/disk/weightsd"), "this program lies in /Volumes");
    warned(
        &Surroundings { socket_variable: Some("/tmp/other".into()), ..ada() },
        "clients of this shell to /tmp/other",
    );
    let usual = ada().home.join("Library/Application Support/weightsd/weightsd.sock");
    let said = shown(Platform::MacOs, &Surroundings { socket_variable: Some(usual), ..ada() });
    assert!(!said.contains("warning"), "{said}");

    let refused = |around: Surroundings| Installation::new(Platform::MacOs, &around).unwrap_err().to_string();
    assert!(refused(Surroundings { home: format!("/{}", "u".repeat(90)).into(), ..ada() }).contains("103"));
    assert!(refused(program("/a\nb/weightsd")).contains("no service manager takes"));
}

/// A home with a quote in it: the printed command is typed into a shell.
#[test]
fn the_printed_commands_survive_a_shell() {
    let around = Surroundings { home: "/Users/o'brien $x".into(), ..ada() };
    let said = shown(Platform::MacOs, &around);
    let command = said.lines().find_map(|line| line.trim().strip_prefix("launchctl bootstrap gui/501 ")).unwrap();
    let echoed = Command::new("sh").args(["-c", &format!("printf %s {command}")]).output().unwrap();
    let path = String::from_utf8(echoed.stdout).unwrap();
    assert_eq!(path, "/Users/o'brien $x/Library/LaunchAgents/dev.weightsd.plist");
}

use std::{path::Path, time::Duration};

use super::*;

fn layers(text: &str, flags: Settings) -> Result<Layers, SettingsError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    fs::write(&path, text).unwrap();
    Layers::read(flags, Some(path))
}

fn read(text: &str) -> Result<Settings, SettingsError> {
    layers(text, Settings::default()).map(|layers| layers.said())
}

#[test]
fn a_file_is_read_strictly() {
    let file = "hub_cache = \"/models\"\nkeep_alive = \"1h 30min\"\nconnections = 7\noffline = true\n";
    let flags = Settings { grace: Some(Duration::ZERO), ..Settings::default() };
    let config = layers(file, flags).unwrap().complete().unwrap();
    assert_eq!(config.places.hub_cache, Some(PathBuf::from("/models")));
    assert_eq!(config.changing.keep_alive.get().default, Duration::from_secs(5400));
    assert_eq!((config.grace, config.connections, config.places.sources.is_offline()), (Duration::ZERO, 7, true));
    for (bad, word) in [
        ("keep_alive = 5", "keep_alive"),
        ("keep_alive = \"soon\"", "keep_alive"),
        ("keep_alive = \"18446744073709551615s\"", "longer"),
        ("connections = 0", "connections"),
        ("hub_cache = \"models\"", "relative"),
        ("hub_endpoint = \"huggingface.co\"", "hub_endpoint"),
        ("hub_endpoint = \"ftp://h\"", "hub_endpoint"),
        ("free_space = \"much\"", "free_space"),
        ("offline = \"perhaps\"", "offline"),
        ("metrics_listen = \"0.0.0.0:9464\"", "other machines"),
        ("metrics_listen = \"9464\"", "127.0.0.1"),
        ("metrics_listen = \"run/metrics.sock\"", "absolute"),
        ("allow = [\"org\"]", "org/repo"),
        ("allow = [\"./models\"]", "relative"),
        ("allow = 5", "org/repo"),
        ("allow = true", "list"),
        ("allow_uids = [\"root\"]", "number"),
        ("guests_may = [\"load\"]", "`evict`"),
        ("preload = [\"org/repo\"]", "org/repo#transformer"),
        ("preload = [\"./models#vae\"]", "relative"),
        ("[", "1"),
    ] {
        let error = read(bad).unwrap_err();
        let SettingsError::File { source, .. } = &error else { panic!("{bad}: {error}") };
        assert!(source.to_string().contains(word), "{bad}: {source}");
    }
    let absent = Layers::read(Settings::default(), Some(PathBuf::from("/nowhere/config.toml")));
    assert!(matches!(absent, Err(SettingsError::Io { .. })));
}

#[test]
fn an_unknown_setting_is_named_with_its_line_and_the_nearest_name() {
    for (text, line, written, similar) in [
        ("keep_alve = \"1h\"", 1, "keep_alve", Some("keep_alive")),
        ("# a\n\nverify = true\nimage-budget = \"1GB\"", 4, "image-budget", Some("image_budget")),
        ("Allow = []", 1, "Allow", Some("allow")),
        ("sources = 1", 1, "sources", None),
        ("[colour]\nred = 1", 1, "colour", None),
    ] {
        let error = read(text).unwrap_err();
        let SettingsError::Unknown { line: found, name, similar: meant, .. } = &error else {
            panic!("{text}: {error}")
        };
        assert_eq!((*found, name.as_str(), *meant), (line, written, similar), "{text}");
        let explained = error.explain();
        assert!(error.to_string().contains(&format!("line {line} of")) && explained.hint.contains("weightsd config"));
        assert_eq!(explained.hint.contains("did you mean"), similar.is_some(), "{}", explained.hint);
    }
}

#[test]
fn every_value_says_where_it_comes_from() {
    let flags = Settings { grace: Some(Duration::ZERO), verify: Some(false), ..Settings::default() };
    let text = "# mine\nverify = true\nkeep_alive = \"1h\"\nallow = [\n  \"org/*\",\n]\n";
    let stated = layers(text, flags).unwrap().complete().unwrap().stated;
    let of = |name: &str| {
        let stated = stated.iter().find(|stated| stated.name == name).unwrap();
        let origin = match &stated.origin {
            Origin::File { line, .. } => format!("line {line}"),
            other => other.to_string(),
        };
        (stated.value.to_string(), origin)
    };
    let is = |value: &str, origin: &str| (value.to_owned(), origin.to_owned());
    assert_eq!(of("grace"), is("0s", "flag"));
    assert_eq!(of("verify"), is("false", "flag"), "the flag wins over the file");
    assert_eq!(of("keep_alive"), is("1h", "line 3"));
    assert_eq!(of("allow"), is("org/*", "line 4"));
    assert_eq!(of("preload"), is("", "default"));
    assert_eq!(of("downloads"), is("4", "default"));
}

#[test]
fn sections_of_sources_are_read_by_their_source() {
    for (bad, word) in [("[source.s3]\nendpoint = \"x\"", "s3"), ("[source.hub]\nendpoint = \"x\"", "hub_")] {
        let error = layers(bad, Settings::default()).unwrap().complete().unwrap_err();
        let text = weightsd_core::explain::sentence(&error);
        assert!(matches!(error, SettingsError::Sources(_)) && text.contains(word), "{bad}: {text}");
    }
}

#[test]
fn keep_alives_do_not_contradict_each_other() {
    let complete = |text| layers(text, Settings::default()).unwrap().complete();
    let error = complete("keep_alive = \"2days\"").unwrap_err();
    assert!(error.to_string().contains("keep_alive_max"), "{error}");
    let config = complete("keep_alive_max = \"1s\"").unwrap();
    assert_eq!(config.changing.keep_alive.get().default, Duration::from_secs(1));
}

#[test]
fn what_is_shown_can_be_written() {
    let lists = "allow = [\"org/*\", \"/models\"]\npreload = [\"org/a#vae\", \"~/b.safetensors#vae\", \"/c#vae\"]\n";
    let config = layers(lists, Settings::default()).unwrap().complete().unwrap();
    let line = |Stated { name, value, .. }: &Stated| match value {
        Shown::Nothing => String::new(),
        Shown::One(value) => format!("{name} = {value:?}\n"),
        Shown::Many(values) => format!("{name} = {values:?}\n"),
    };
    let text: String = config.stated.iter().map(line).collect();
    let again = layers(&text, Settings::default()).unwrap().complete().unwrap();
    let shown = |stated: &[Stated]| stated.iter().map(|it| (it.name, it.value.clone())).collect::<Vec<_>>();
    assert_eq!(shown(&again.stated), shown(&config.stated), "{text}");
}

#[test]
fn the_reference_page_lists_the_table() {
    let mut page = String::from(
        "# Settings\n\nMade from the table in `src/daemon/settings/table.rs`; `UPDATE_GOLDEN=1 cargo test \
         the_reference_page` writes it anew.\n\nEach is a flag of `weightsd serve`, with `-` for `_`, and a line of the \
         configuration file (TOML). Flags win over the file.\nDurations are written like `10min` or `1h 30min`, sizes \
         like `20GB`; a list in the file is `[\"one\", \"two\"]`, and on the command line\nits flag is repeated. \
         `weightsd config` shows what counts here, and why.\n\nOn SIGHUP the daemon reads the file \
         anew. What counts \"at once\" changes then, and the log names it; of the others the log says\nthat they wait for a \
         restart. A file that cannot be used changes nothing, and the log says why.\n\nWhat only one source of models needs is a section `[source.NAME]` of the file, as the \
         README shows them.\n\n| setting | value | default | counts | |\n|---|---|---|---|---|\n",
    );
    for Row { name, placeholder, default, help } in Settings::table() {
        let counts = if Settings::LIVE.contains(&name) { "at once" } else { "at the start" };
        page.push_str(&format!("| `{name}` | {placeholder} | {default} | {counts} | {help} |\n"));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/SETTINGS.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &page).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), page, "UPDATE_GOLDEN=1 writes {} anew", path.display());
}

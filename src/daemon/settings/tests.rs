use std::time::Duration;

use super::*;

fn read(text: &str) -> Result<Settings, SettingsError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    fs::write(&path, text).unwrap();
    Settings::load(Some(&path))
}

#[test]
fn a_file_is_read_strictly() {
    let file = read("hub_cache = \"/models\"\nkeep_alive = \"1h 30min\"\nconnections = 7\noffline = true\n").unwrap();
    let flags = Settings { grace: Some(Duration::ZERO), ..Settings::default() };
    let config = flags.or(file).complete().unwrap();
    assert_eq!(config.places.hub_cache, Some(PathBuf::from("/models")));
    assert_eq!(config.keep_alive.default, Duration::from_secs(5400));
    assert_eq!((config.grace, config.connections, config.places.sources.is_offline()), (Duration::ZERO, 7, true));
    for (bad, word) in [
        ("keep_alve = \"1h\"", "keep_alve"),
        ("keep_alive = 5", "keep_alive"),
        ("keep_alive = \"soon\"", "keep_alive"),
        ("keep_alive = \"18446744073709551615s\"", "longer"),
        ("connections = 0", "connections"),
        ("hub_cache = \"models\"", "relative"),
        ("hub_endpoint = \"huggingface.co\"", "hub_endpoint"),
        ("hub_endpoint = \"ftp://h\"", "hub_endpoint"),
        ("free_space = \"much\"", "free_space"),
        ("offline = \"perhaps\"", "offline"),
        ("[", "1"),
    ] {
        let error = read(bad).unwrap_err();
        let SettingsError::File { source, .. } = &error else { panic!("{bad}: {error}") };
        assert!(source.to_string().contains(word), "{bad}: {source}");
    }
    let absent = Settings::load(Some(Path::new("/nowhere/config.toml")));
    assert!(matches!(absent, Err(SettingsError::Io { .. })));
}

#[test]
fn sections_of_sources_are_read_by_their_source() {
    for (bad, word) in [("[source.s3]\nendpoint = \"x\"", "s3"), ("[source.hub]\nendpoint = \"x\"", "hub_")] {
        let error = read(bad).unwrap().complete().unwrap_err();
        let text = weightsd_core::explain::sentence(&error);
        assert!(matches!(error, SettingsError::Sources(_)) && text.contains(word), "{bad}: {text}");
    }
}

#[test]
fn keep_alives_do_not_contradict_each_other() {
    let error = read("keep_alive = \"2days\"").unwrap().complete().unwrap_err();
    assert!(error.to_string().contains("keep_alive_max"), "{error}");
    let config = read("keep_alive_max = \"1s\"").unwrap().complete().unwrap();
    assert_eq!(config.keep_alive.default, Duration::from_secs(1));
}

#[test]
fn what_is_shown_can_be_written() {
    let config = Settings::default().complete().unwrap();
    let quoted = |(name, value): &(&str, String)| (!value.is_empty()).then(|| format!("{name} = {value:?}\n"));
    let text: String = config.settings.shown().iter().filter_map(quoted).collect();
    assert_eq!(read(&text).unwrap(), config.settings, "{text}");
}

#[test]
fn the_reference_page_lists_the_table() {
    let mut page = String::from(
        "# Settings\n\nMade from the table in `src/daemon/settings/table.rs`; `UPDATE_GOLDEN=1 cargo test \
         the_reference_page` writes it anew.\n\nEach is a flag of `weightsd serve`, with `-` for `_`, and a line of the \
         configuration file (TOML). Flags win over the file.\nDurations are written like `10min` or `1h 30min`, sizes \
         like `20GB`.\n\nWhat only one source of models needs is a section `[source.NAME]` of the file, which that source \
         describes; the hub has none.\n\n| setting | value | default | |\n|---|---|---|---|\n",
    );
    for Row { name, placeholder, default, help } in Settings::table() {
        page.push_str(&format!("| `{name}` | {placeholder} | {default} | {help} |\n"));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/SETTINGS.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &page).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), page, "UPDATE_GOLDEN=1 writes {} anew", path.display());
}

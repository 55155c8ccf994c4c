//! What people see of each kind of model, held by the files of `tests/golden`. `UPDATE_GOLDEN=1 cargo test screens`
//! writes them anew; a change of them is read as carefully as one of the code.

use std::{
    fs,
    path::{Path, PathBuf},
};

use weightsd_fixtures::{Checkpoint, Contents, ControlVersion, Dims, Dtype, FilePart, Names, Quantisation};

use crate::harness::{Home, tiny};

/// Columns of a terminal.
const COLUMNS: usize = 120;
/// Lines of a terminal that one command may fill.
const LINES: usize = 50;

/// Headers of true dimensions, over holes.
fn true_size() -> Checkpoint {
    Checkpoint::new(&Dims::true_size(), Contents::Sparse).unwrap()
}

fn file(checkpoint: &Checkpoint, home: &Home, name: &str, parts: &[FilePart<'_>]) {
    checkpoint.write_single_file(home.path(), name, parts).unwrap();
}

fn part(component: &'static str, prefix: &'static str, names: Names) -> [FilePart<'static>; 1] {
    [FilePart { component, prefix, names }]
}

/// Compares what the commands say with the golden file of that name. Paths of this run are `<home>` in it.
fn holds(home: &Home, name: &str, commands: &[&str]) {
    let _daemon = home.daemon_with(&["--verify", "false"]);
    let mut said = String::new();
    for command in commands {
        let output = home.command().args(command.split(' ')).output().unwrap();
        let [out, err] = [output.stdout, output.stderr].map(|stream| String::from_utf8(stream).unwrap());
        assert!(out.lines().count() <= LINES, "{command} fills more than a screen:\n{out}");
        for line in out.lines() {
            assert!(line.chars().count() <= COLUMNS, "{command} is wider than a terminal:\n{line}");
        }
        let code = output.status.code().unwrap();
        let status = if code == 0 { String::new() } else { format!("(exit status {code})\n") };
        said.push_str(&format!("$ weightsd {command}\n{out}{err}{status}\n"));
    }
    // `/private/tmp` and `/tmp` are one place on macOS.
    let real = home.path().canonicalize().unwrap();
    let said = [real.as_path(), home.path()].iter().fold(said, |said, path| said.replace(&shown(path), "<home>"));
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(golden.parent().unwrap()).unwrap();
        fs::write(&golden, &said).unwrap();
    }
    let expected = fs::read_to_string(&golden).unwrap_or_default();
    assert!(said == expected, "{} differs (UPDATE_GOLDEN=1 takes this):\n{said}", golden.display());
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn of_a_diffusers_directory() {
    let home = Home::new();
    true_size().write_directory(home.path().join("model")).unwrap();
    holds(
        &home,
        "directory",
        &["inspect ./model", "inspect ./model transformer --match layers.0.*", "audit ./model", "resolve ./model"],
    );
}

#[test]
fn of_an_all_in_one_file() {
    let home = Home::new();
    let mut checkpoint = true_size();
    file(&checkpoint, &home, "all.safetensors", &FilePart::COMFY);
    // Another one has no text encoder, a tensor that MLX cannot use, and one that belongs to nothing.
    checkpoint.component_mut("vae").push("loss.logvar", Dtype::F32, &[1]);
    checkpoint.component_mut("transformer").retype("layers.0.feed_forward.w1.weight", Dtype::F8_E4M3);
    let rest = [
        FilePart { component: "transformer", prefix: "model.diffusion_model.", names: Names::Original },
        FilePart { component: "vae", prefix: "first_stage_model.", names: Names::Diffusers },
    ];
    file(&checkpoint, &home, "rest.safetensors", &rest);
    holds(
        &home,
        "all-in-one",
        &[
            "inspect ./all.safetensors",
            "inspect ./all.safetensors transformer --match layers.0.attention.*",
            "audit ./all.safetensors",
            "resolve ./all.safetensors",
            "inspect ./rest.safetensors",
            "audit ./rest.safetensors vae",
        ],
    );
}

#[test]
fn of_files_of_one_component() {
    let home = Home::new();
    let checkpoint = true_size();
    file(&checkpoint, &home, "transformer.safetensors", &part("transformer", "", Names::Original));
    file(&checkpoint, &home, "vae.safetensors", &part("vae", "", Names::Original));
    holds(
        &home,
        "one-component",
        &[
            "inspect ./transformer.safetensors",
            "audit ./transformer.safetensors",
            "inspect ./vae.safetensors",
            "inspect ./vae.safetensors vae --match decoder.mid_block.*",
            "audit ./vae.safetensors",
        ],
    );
}

#[test]
fn of_a_control_file() {
    let home = Home::new();
    let mut checkpoint = true_size();
    checkpoint.add_control(ControlVersion::V2_1);
    file(&checkpoint, &home, "control.safetensors", &part("controlnet", "", Names::Diffusers));
    holds(
        &home,
        "control",
        &["inspect ./control.safetensors", "audit ./control.safetensors", "resolve ./control.safetensors"],
    );
}

#[test]
fn of_a_quantised_directory() {
    let home = Home::new();
    let mut checkpoint = tiny(1);
    checkpoint.quantise("text_encoder", Quantisation::Manifest { bits: 8, group_size: 32 });
    checkpoint.write_directory(home.path().join("model")).unwrap();
    holds(
        &home,
        "quantised",
        &["inspect ./model", "inspect ./model text_encoder --match *.0.self_attn.*", "audit ./model"],
    );
}

#[test]
fn of_a_language_model() {
    let home = Home::new();
    let checkpoint = tiny(1);
    file(&checkpoint, &home, "llm/model.safetensors", &part("text_encoder", "", Names::Diffusers));
    fs::write(home.path().join("llm/config.json"), checkpoint.file("text_encoder/config.json").unwrap()).unwrap();
    holds(&home, "language-model", &["inspect ./llm", "audit ./llm", "resolve ./llm"]);
}

#[test]
fn of_a_directory_that_leaves_open_what_is_meant() {
    let home = Home::new();
    for name in ["files/first.safetensors", "files/second.safetensors"] {
        file(&tiny(1), &home, name, &FilePart::COMFY);
    }
    holds(&home, "ambiguous", &["inspect ./files", "audit ./files", "resolve ./files", "load ./files transformer"]);
}

#[test]
fn of_a_file_laid_over_a_model() {
    let home = Home::new();
    let mut checkpoint = tiny(1);
    checkpoint.write_directory(home.path().join("model")).unwrap();
    file(&checkpoint, &home, "whole.safetensors", &part("transformer", "", Names::Original));
    checkpoint.component_mut("transformer").retain(|tensor| tensor.name.starts_with("layers.0.attention."));
    file(&checkpoint, &home, "some.safetensors", &part("transformer", "model.diffusion_model.", Names::Original));
    holds(
        &home,
        "overlay",
        &[
            "audit ./model transformer --overlay ./whole.safetensors",
            "audit ./model transformer --overlay ./some.safetensors",
            "audit ./model transformer --overlay ./model",
            "audit ./whole.safetensors --base ./model",
            "audit ./whole.safetensors",
        ],
    );
}

#[test]
fn of_damage() {
    let home = Home::new();
    let mut checkpoint = tiny(1);
    let vae = checkpoint.component_mut("vae");
    vae.remove("decoder.conv_in.bias").reshape("encoder.conv_in.bias", &[5]);
    vae.retain(|tensor| !tensor.name.starts_with("encoder.down_blocks.0"));
    checkpoint.write_directory(home.path().join("model")).unwrap();
    fs::remove_file(home.path().join("model/text_encoder/config.json")).unwrap();
    holds(&home, "damage", &["audit ./model vae", "inspect ./model", "audit ./model"]);
}

//! Checkpoints in other layouts: what the core makes of them has the bytes of the diffusers tensors.

use std::{
    fs,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use safetensors::SafeTensors;
use weightsd_core::{
    assemble::{Assembled, Inputs, Raw, assemble, declaration},
    family::{self, Family, ModelFacts, z_image::ZImage},
    header::{self, Header},
    parts::FileKind,
    place::{Layout, place},
    table::Table,
    tool::Tool,
};
use weightsd_fixtures::{Checkpoint, Contents, ControlVersion, Dims, Dtype, FilePart, Names, Quantisation, Written};

const COMPONENTS: [&str; 3] = ["transformer", "text_encoder", "vae"];

fn tiny() -> Checkpoint {
    Checkpoint::new(&Dims::tiny(), Contents::Random { seed: 4 }).expect("the preset is valid")
}

fn read_header(path: &Path) -> Result<Header> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    let mut prefix = [0; 8];
    file.read_exact(&mut prefix)?;
    let mut json = vec![0; header::header_length(prefix, length)?];
    file.read_exact(&mut json)?;
    Ok(Header::parse(&json, length)?)
}

fn facts(checkpoint: &Checkpoint) -> ModelFacts {
    let paths = ["model_index.json", "quantization.json"].map(str::to_owned).into_iter();
    let paths = paths.chain(COMPONENTS.map(|component| format!("{component}/config.json")));
    let documents = paths.filter_map(|path| Some((path.clone(), checkpoint.file(&path)?.to_vec()))).collect();
    ModelFacts { files: Vec::new(), documents }
}

/// What a daemon does with a single file and a base model's configs.
fn open(path: &Path, base: &Checkpoint, component: &str) -> Result<Assembled> {
    let table = Table::of_file(read_header(path)?);
    let (family, located) = family::locate(&table).context("a family")?;
    let facts = facts(base);
    let site = family.components(&facts).into_iter().find(|site| site.name == component).context("site")?;
    let description = family.describe(&site, &facts)?;
    let raw = Raw::of_part(&table, &located, component, Some(&description), family, Tool::Unknown)?;
    let inputs =
        Inputs { component, family, description: Some(description), model: None, raw, other: None, declaration: None };
    Ok(assemble(inputs)?)
}

fn check_bytes(assembled: &Assembled, path: &Path, checkpoint: &Checkpoint, component: &str) -> Result<usize> {
    ensure!(assembled.report.is_clean(), "{}", assembled.report.summary());
    let catalogue = assembled.description.catalogue.as_ref();
    let placed = place(&assembled.table, catalogue, &assembled.description.naming, Layout::Source)?;
    let mut file = fs::File::open(path)?;
    for tensor in &placed {
        let mut bytes = vec![0; usize::try_from(tensor.at.range.end - tensor.at.range.start)?];
        file.seek(SeekFrom::Start(tensor.at.range.start))?;
        file.read_exact(&mut bytes)?;
        let expected = checkpoint.component(component).tensor(&tensor.name);
        ensure!((tensor.dtype, &tensor.shape) == (expected.dtype, &expected.shape), "{}", tensor.name);
        ensure!(bytes == checkpoint.expected_bytes(component, &tensor.name), "bytes of {}", tensor.name);
    }
    Ok(placed.len())
}

fn weight_file(written: &Written) -> std::path::PathBuf {
    written.root.join(&written.files.last().expect("a file").path)
}

#[test]
fn an_all_in_one_file_gives_back_every_byte() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let checkpoint = tiny();
    let written = checkpoint.write_single_file(folder.path(), "all.safetensors", &FilePart::COMFY)?;
    let path = weight_file(&written);
    let bytes = fs::read(&path)?;
    assert_eq!(SafeTensors::deserialize(&bytes)?.len(), written.tensors.len(), "the official crate reads it");
    for component in COMPONENTS {
        let count = check_bytes(&open(&path, &checkpoint, component)?, &path, &checkpoint, component)?;
        assert_eq!(count, checkpoint.component(component).tensors().len());
    }
    Ok(())
}

#[test]
fn each_prefix_and_either_layout_give_back_every_byte() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let checkpoint = tiny();
    let cases =
        [("transformer", "diffusion_model."), ("vae", "first_stage_model."), ("text_encoder", "cond_stage_model.")];
    for (component, prefix) in cases {
        for names in [Names::Original, Names::Diffusers] {
            let part = [FilePart { component, prefix, names }];
            let written = checkpoint.write_single_file(folder.path(), "part.safetensors", &part)?;
            let path = weight_file(&written);
            check_bytes(&open(&path, &checkpoint, component)?, &path, &checkpoint, component)?;
        }
    }
    Ok(())
}

#[test]
fn at_true_size_the_file_has_1095_tensors_and_the_published_length() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut checkpoint = Checkpoint::new(&Dims::true_size(), Contents::Sparse)?;
    checkpoint.component_mut("transformer").set_dtype(Dtype::BF16);
    let written = checkpoint.write_single_file(folder.path(), "all.safetensors", &FilePart::COMFY)?;
    assert_eq!(written.tensors.len(), 1095);
    let table = Table::of_file(read_header(&weight_file(&written))?);
    let (_, located) = family::locate(&table).context("a family")?;
    assert_eq!(located.kind, FileKind::AllInOne);
    for (component, tensors) in COMPONENTS.into_iter().zip([521, 398, 244]) {
        let assembled = open(&weight_file(&written), &checkpoint, component)?;
        assert!(assembled.report.is_clean());
        assert_eq!(assembled.report.matched, tensors);
    }
    // Comfy-Org's split file, with a header of its own.
    let part = [FilePart { component: "transformer", prefix: "", names: Names::Original }];
    let split = checkpoint.write_single_file(folder.path(), "split.safetensors", &part)?;
    assert_eq!(split.tensors.len(), 453);
    let published: u64 = 12_309_866_400;
    assert!(split.bytes().abs_diff(published) < 10_000, "{}", split.bytes());
    Ok(())
}

#[test]
fn control_files_are_read_byte_for_byte() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let cases = [
        (ControlVersion::V1, "1.0", 136),
        (ControlVersion::V2, "2.0", 259),
        (ControlVersion::V2_1, "2.1", 295),
        (ControlVersion::V2_1Lite, "2.1-lite", 91),
    ];
    for (version, name, tensors) in cases {
        let mut checkpoint = tiny();
        checkpoint.add_control(version);
        let part = [FilePart { component: "controlnet", prefix: "", names: Names::Diffusers }];
        let written = checkpoint.write_single_file(folder.path(), "control.safetensors", &part)?;
        let path = weight_file(&written);
        let table = Table::of_file(read_header(&path)?);
        let (family, located) = family::locate(&table).context("a family")?;
        let raw = Raw::of_part(&table, &located, "controlnet", None, family, Tool::Unknown)?;
        let inputs = Inputs {
            component: "controlnet",
            family,
            description: None,
            model: family.name(None, &ModelFacts::default()),
            raw,
            other: None,
            declaration: None,
        };
        let assembled = assemble(inputs)?;
        assert_eq!(assembled.description.config["version"], name);
        assert_eq!(check_bytes(&assembled, &path, &checkpoint, "controlnet")?, tensors);
    }
    Ok(())
}

#[test]
fn quantised_directories_are_read_byte_for_byte() -> Result<()> {
    let cases = [
        Quantisation::Manifest { bits: 8, group_size: 32 },
        Quantisation::MlxLm { bits: 4, group_size: 64 },
        Quantisation::Mxfp4,
        Quantisation::Mflux { bits: 4 },
        Quantisation::Undeclared { bits: 6, group_size: 64 },
    ];
    for how in cases {
        let folder = tempfile::tempdir()?;
        let mut checkpoint = tiny();
        checkpoint.component_mut("text_encoder").set_shard_bytes_max(u64::MAX);
        // Seven matrices in each of three layers; the rows of the true model's fit, and so do these.
        assert_eq!(checkpoint.quantise("text_encoder", how), 21, "{how:?}");
        let written = checkpoint.write_directory(folder.path())?;
        let path = written.weight_files_of("text_encoder").remove(0);
        let header = read_header(&path)?;
        let metadata = header.metadata.clone();
        let table = Table::of_file(header);
        let facts = facts(&checkpoint);
        let site = ZImage.components(&facts).into_iter().find(|site| site.name == "text_encoder").context("site")?;
        let description = ZImage.describe(&site, &facts)?;
        let declared = declaration(&facts, &site, &metadata)?;
        assert_eq!(declared.is_none(), matches!(how, Quantisation::Undeclared { .. }));
        let raw = Raw::of_files(&table, "text_encoder", Some(&description), &ZImage, Tool::of_metadata(&metadata))?;
        let assembled = assemble(Inputs {
            component: "text_encoder",
            family: &ZImage,
            description: Some(description),
            model: None,
            raw,
            other: None,
            declaration: declared.as_ref(),
        })?;
        assert_eq!(assembled.report.schemes.values().map(|total| total.tensors).sum::<u32>(), 21, "{how:?}");
        check_bytes(&assembled, &path, &checkpoint, "text_encoder")?;
    }
    Ok(())
}

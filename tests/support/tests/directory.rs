//! Checkpoints as directories: published sizes, agreement with the official crate, and damage.

use std::{fs, os::unix::fs::MetadataExt};

use anyhow::{Context, Result};
use safetensors::SafeTensors;
use weightsd_core::{header, index::Index};
use weightsd_fixtures::{Checkpoint, Contents, Dims, Dtype, FixtureError, Written, damage};

const COMPONENTS: [&str; 3] = ["transformer", "text_encoder", "vae"];

fn tiny() -> Checkpoint {
    Checkpoint::new(&Dims::tiny(), Contents::Random { seed: 1 }).expect("the preset is valid")
}

/// Blocks that the files take on disk, in bytes.
fn disk_bytes(written: &Written) -> Result<u64> {
    written.files.iter().map(|file| Ok(fs::metadata(written.root.join(&file.path))?.blocks() * 512)).sum()
}

#[test]
fn true_size_takes_no_disk() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let written = Checkpoint::new(&Dims::true_size(), Contents::Sparse)?.write_directory(folder.path())?;
    let totals = COMPONENTS.map(|component| {
        let tensors: Vec<_> = written.tensors_of(component).collect();
        let bytes = tensors.iter().map(|tensor| tensor.range.end - tensor.range.start).sum::<u64>();
        (tensors.len(), written.weight_files_of(component).len(), bytes)
    });
    assert_eq!(totals, [(521, 3, 24_619_634_944), (398, 3, 8_044_936_192), (244, 1, 167_639_366)]);
    for file in &written.files {
        assert_eq!(fs::metadata(written.root.join(&file.path))?.len(), file.bytes, "{}", file.path);
    }
    assert!(disk_bytes(&written)? < 1_000_000);
    Ok(())
}

#[test]
fn the_official_crate_reads_what_was_written() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let checkpoint = tiny();
    let written = checkpoint.write_directory(folder.path())?;
    for (component, files) in [("transformer", 3), ("text_encoder", 3), ("vae", 1)] {
        assert_eq!(written.weight_files_of(component).len(), files, "{component}");
        for path in written.weight_files_of(component) {
            let bytes = fs::read(&path)?;
            let (_, metadata) = SafeTensors::read_metadata(&bytes)?;
            assert_eq!(metadata.metadata().as_ref().context("__metadata__")?["format"], "pt");
            let file = SafeTensors::deserialize(&bytes)?;
            let here: Vec<_> = written.tensors_of(component).filter(|tensor| written.path_of(tensor) == path).collect();
            assert_eq!(file.len(), here.len());
            for tensor in here {
                let theirs = file.tensor(&tensor.name)?;
                let shape: Vec<u64> = theirs.shape().iter().map(|&dimension| dimension as u64).collect();
                assert_eq!((theirs.dtype(), shape), (tensor.dtype, tensor.shape.clone()));
                let expected = checkpoint.expected_bytes(component, &tensor.name);
                assert_eq!(theirs.data(), expected, "{}", tensor.name);
                assert_eq!(written.read(tensor)?, expected, "{}", tensor.name);
                assert_eq!(tensor.range.start % (tensor.dtype.bitsize() as u64 / 8), 0);
            }
        }
    }
    assert!(written.bytes() < 2_000_000, "{}", written.bytes());
    Ok(())
}

#[test]
fn the_index_names_the_shard_of_every_tensor() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let checkpoint = tiny();
    let written = checkpoint.write_directory(folder.path())?;
    for (component, stem) in [("transformer", "diffusion_pytorch_model"), ("text_encoder", "model")] {
        let json = fs::read(folder.path().join(format!("{component}/{stem}.safetensors.index.json")))?;
        let index = Index::parse(&json, component)?;
        assert_eq!(index.total_size, Some(checkpoint.component(component).payload_bytes()));
        let placed: Vec<_> = written.tensors_of(component).collect();
        assert_eq!(index.shard_of.len(), placed.len());
        assert!(placed.iter().all(|tensor| index.shard_of[&tensor.name] == tensor.file));
    }
    assert!(!folder.path().join("vae/diffusion_pytorch_model.safetensors.index.json").exists());
    Ok(())
}

#[test]
fn seeds_decide_the_bytes_and_nothing_else_does() -> Result<()> {
    let (first, again, other) = (tiny(), tiny(), Checkpoint::new(&Dims::tiny(), Contents::Random { seed: 2 })?);
    let name = "x_pad_token";
    assert_eq!(first.expected_bytes("transformer", name), again.expected_bytes("transformer", name));
    assert_ne!(first.expected_bytes("transformer", name), other.expected_bytes("transformer", name));
    let sparse = Checkpoint::new(&Dims::tiny(), Contents::Sparse)?;
    assert!(sparse.expected_bytes("transformer", name).iter().all(|&byte| byte == 0));
    Ok(())
}

#[test]
fn edits_are_written() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut checkpoint = tiny();
    checkpoint
        .component_mut("vae")
        .remove("decoder.conv_in.bias")
        .rename("encoder.conv_in.bias", "encoder.conv_in.b")
        .reshape("encoder.conv_out.bias", &[5])
        .retype("decoder.conv_out.bias", Dtype::F16)
        .push("stray", Dtype::U8, &[3]);
    checkpoint.component_mut("text_encoder").set_dtype(Dtype::F32).set_shard_bytes_max(u64::MAX);
    checkpoint.component_mut("transformer").retain(|tensor| !tensor.name.starts_with("layers.4."));
    checkpoint.put_file("README.md", "# x").remove_file("model_index.json");
    let written = checkpoint.write_directory(folder.path())?;

    let bytes = fs::read(&written.weight_files_of("vae")[0])?;
    let vae = SafeTensors::deserialize(&bytes)?;
    assert!(vae.tensor("decoder.conv_in.bias").is_err() && vae.tensor("encoder.conv_in.bias").is_err());
    assert_eq!(vae.tensor("encoder.conv_in.b")?.data(), checkpoint.expected_bytes("vae", "encoder.conv_in.b"));
    assert_eq!(vae.tensor("encoder.conv_out.bias")?.shape(), [5]);
    assert_eq!(vae.tensor("decoder.conv_out.bias")?.dtype(), Dtype::F16);
    assert_eq!(vae.tensor("stray")?.data(), checkpoint.expected_bytes("vae", "stray"));
    assert_eq!(vae.len(), 244);

    assert!(written.weight_files_of("text_encoder")[0].ends_with("text_encoder/model.safetensors"));
    assert!(!folder.path().join("text_encoder/model.safetensors.index.json").exists());
    assert!(written.tensor("transformer", "layers.4.ffn_norm1.weight").is_none());
    assert_eq!(fs::read(folder.path().join("README.md"))?, b"# x");
    assert!(!folder.path().join("model_index.json").exists());
    Ok(())
}

#[test]
#[should_panic(expected = "component `vae` has no tensor `nothing`")]
fn edits_of_what_is_not_there_panic() {
    tiny().component_mut("vae").remove("nothing");
}

#[test]
fn files_can_be_damaged() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let written = tiny().write_directory(folder.path())?;
    let tensor = written.tensor("vae", "encoder.conv_in.bias").context("tensor")?;
    let (path, before) = (written.path_of(tensor), written.read(tensor)?);

    damage::flip_byte(&path, tensor.range.start)?;
    let after = written.read(tensor)?;
    assert_eq!((after[0], &after[1..]), (!before[0], &before[1..]));

    damage::set_length(&path, 100)?;
    assert_eq!(fs::metadata(&path)?.len(), 100);
    let prefix = fs::read(&path)?[..8].try_into()?;
    assert!(matches!(header::header_length(prefix, 100), Err(header::HeaderError::HeaderTruncated { .. })));

    damage::remove(&path)?;
    assert!(!path.exists());
    assert!(matches!(damage::remove(&path), Err(FixtureError::Io { action: "remove", .. })));
    Ok(())
}

#[test]
fn dimensions_that_no_model_has_are_refused() {
    let mut dims = Dims::tiny();
    dims.transformer.axes_dims = [4, 4, 5];
    assert!(matches!(Checkpoint::new(&dims, Contents::Sparse), Err(FixtureError::Dims(_))));
}

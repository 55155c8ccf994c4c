//! Checkpoints as snapshots in a Hugging Face cache.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::Result;
use sha2::{Digest, Sha256};
use weightsd_fixtures::{CacheForm, Checkpoint, Contents, Dims, HubFixture, damage};

const REPO: &str = "Tongyi-MAI/Z-Image-Turbo";
const SHARD: &str = "transformer/diffusion_pytorch_model-00001-of-00003.safetensors";

fn tiny() -> Checkpoint {
    Checkpoint::new(&Dims::tiny(), Contents::Random { seed: 1 }).expect("the preset is valid")
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

fn assert_readable(checkpoint: &Checkpoint, hub: &HubFixture) -> Result<()> {
    for tensor in &hub.written.tensors {
        assert_eq!(hub.written.read(tensor)?, checkpoint.expected_bytes(&tensor.component, &tensor.name));
    }
    for file in &hub.files {
        assert_eq!(fs::canonicalize(hub.snapshot_dir.join(&file.path))?, fs::canonicalize(&file.target)?);
        assert_eq!(fs::metadata(&file.target)?.len(), file.bytes);
    }
    Ok(())
}

#[test]
fn snapshots_link_to_blobs_named_by_content() -> Result<()> {
    let cache = tempfile::tempdir()?;
    let checkpoint = tiny();
    let hub = checkpoint.write_hub_cache(cache.path(), REPO, "main")?;
    assert_readable(&checkpoint, &hub)?;
    let repo_dir = cache.path().join("models--Tongyi-MAI--Z-Image-Turbo");
    assert_eq!(hub.snapshot_dir, repo_dir.join("snapshots").join(&hub.commit));
    assert_eq!(fs::read_to_string(repo_dir.join("refs/main"))?, hub.commit);
    assert!(hub.commit.len() == 40 && hub.commit.bytes().all(|byte| byte.is_ascii_hexdigit()));

    let shard = hub.file(SHARD).expect("a shard");
    let link = fs::read_link(hub.snapshot_dir.join(SHARD))?;
    assert_eq!(link, Path::new("../../../blobs").join(&shard.etag));
    assert_eq!(shard.etag, hex::encode(Sha256::digest(fs::read(&shard.target)?)));
    let small = hub.file("model_index.json").expect("the pipeline's index");
    assert_eq!(fs::read_link(hub.snapshot_dir.join("model_index.json"))?, Path::new("../../blobs").join(&small.etag));
    assert_eq!((shard.etag.len(), small.etag.len()), (64, 40));
    assert_eq!(entries(&repo_dir.join("blobs"))?.len(), hub.files.len());
    Ok(())
}

#[test]
fn commits_refs_and_repositories_add_up() -> Result<()> {
    let cache = tempfile::tempdir()?;
    let mut checkpoint = tiny();
    let first = checkpoint.write_hub_cache(cache.path(), REPO, "main")?;
    let again = checkpoint.write_hub_cache(cache.path(), REPO, "main")?;
    assert_eq!(first.commit, again.commit);
    let tag = first.add_ref("refs/pr/1")?;
    assert_eq!(tag, first.repo_dir.join("refs/refs/pr/1"));

    checkpoint.put_file("README.md", "second");
    let second = checkpoint.write_hub_cache(cache.path(), REPO, "main")?;
    assert_ne!(first.commit, second.commit);
    assert_eq!(fs::read_to_string(first.repo_dir.join("refs/main"))?, second.commit);
    assert_eq!(fs::read_to_string(tag)?, first.commit);
    assert_eq!(first.file(SHARD), second.file(SHARD));
    assert_eq!(entries(&second.repo_dir.join("blobs"))?.len(), first.files.len() + 1);

    let other = checkpoint.write_hub_cache(cache.path(), "me/copy", "main")?;
    let (here, there) = (second.file(SHARD).expect("a shard"), other.file(SHARD).expect("a shard"));
    assert_eq!(here.etag, there.etag);
    assert_ne!(fs::metadata(&here.target)?.ino(), fs::metadata(&there.target)?.ino());
    assert_ne!(second.commit, other.commit);
    assert_readable(&checkpoint, &other)
}

#[test]
fn a_shared_store_holds_one_copy_for_all() -> Result<()> {
    let cache = tempfile::tempdir()?;
    let checkpoint = tiny();
    let first = checkpoint.write_hub_cache_as(CacheForm::SharedStore, cache.path(), REPO, "main")?;
    let second = checkpoint.write_hub_cache_as(CacheForm::SharedStore, cache.path(), "me/copy", "main")?;
    assert_readable(&checkpoint, &first)?;
    assert_readable(&checkpoint, &second)?;
    let shard = first.file(SHARD).expect("a shard");
    assert_eq!(shard.target, second.file(SHARD).expect("a shard").target);
    assert_eq!(fs::metadata(&shard.target)?.permissions().mode() & 0o777, 0o444);

    let hash = shard.target.file_name().and_then(|name| name.to_str()).expect("a name");
    assert_ne!(hash, shard.etag);
    assert_eq!(shard.target, cache.path().join("blobs").join(&hash[..2]).join(hash));
    let blob_link = fs::read_link(first.repo_dir.join("blobs").join(&shard.etag))?;
    assert_eq!(blob_link, Path::new("../../blobs").join(&hash[..2]).join(hash));
    let refs = fs::read_to_string(shard.target.with_file_name(format!("{hash}.refs")))?;
    let users =
        ["models--Tongyi-MAI--Z-Image-Turbo", "models--me--copy"].map(|repo| format!("{repo}/blobs/{}\n", shard.etag));
    assert_eq!(refs, users.concat());
    assert_eq!(fs::read(cache.path().join("blobs/.huggingface-shared-blobs"))?, b"1\n");
    Ok(())
}

#[test]
fn plain_files_leave_no_blobs() -> Result<()> {
    let cache = tempfile::tempdir()?;
    let checkpoint = tiny();
    let hub = checkpoint.write_hub_cache_as(CacheForm::PlainFiles, cache.path(), REPO, "main")?;
    assert_readable(&checkpoint, &hub)?;
    assert!(hub.snapshot_dir.join(SHARD).symlink_metadata()?.is_file());
    assert!(entries(&hub.repo_dir.join("blobs"))?.is_empty());
    Ok(())
}

#[test]
fn a_removed_blob_leaves_its_link() -> Result<()> {
    let cache = tempfile::tempdir()?;
    let hub = tiny().write_hub_cache(cache.path(), REPO, "main")?;
    let path = hub.snapshot_dir.join(SHARD);
    damage::remove_target(&path)?;
    assert!(path.symlink_metadata()?.is_symlink() && !path.exists());
    Ok(())
}

#[test]
fn true_size_is_cached_without_disk() -> Result<()> {
    let cache = tempfile::tempdir()?;
    let hub = Checkpoint::new(&Dims::true_size(), Contents::Sparse)?.write_hub_cache(cache.path(), REPO, "main")?;
    assert_eq!(hub.file(SHARD).expect("a shard").bytes, 9_973_693_184);
    let blocks: Vec<u64> =
        hub.files.iter().map(|file| Ok(fs::metadata(&file.target)?.blocks())).collect::<Result<_>>()?;
    assert!(blocks.iter().sum::<u64>() * 512 < 1_000_000);
    Ok(())
}

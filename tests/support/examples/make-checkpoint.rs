//! Writes a Z-Image checkpoint from the command line.

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use weightsd_fixtures::{CacheForm, Checkpoint, Contents, Dims, FilePart, Written};

const EXAMPLES: &str = "\
Examples:
  A model of 2 MB to load by its path:
    make-checkpoint --size tiny /tmp/z-image
  The full 33 GB in no time and on no disk, all zeros:
    make-checkpoint --size true --sparse /tmp/z-image-turbo
  A cache to point HF_HUB_CACHE at:
    make-checkpoint --size demo --layout hub-cache --repo Tongyi-MAI/Z-Image-Turbo /tmp/hub";

/// Write a Z-Image checkpoint with true names and shape rules, at any size, with made-up weights
#[derive(Parser)]
#[command(after_help = EXAMPLES)]
struct Arguments {
    /// How large it is: 2 MB, 110 MB or 33 GB
    #[arg(long, value_enum)]
    size: Size,
    /// How it lies on disk
    #[arg(long, value_enum, default_value_t = Layout::Directory)]
    layout: Layout,
    /// Repository in the cache (hub layouts)
    #[arg(long, value_name = "OWNER/NAME", default_value = "Tongyi-MAI/Z-Image-Turbo")]
    repo: String,
    /// Revision that points at it (hub layouts)
    #[arg(long, default_value = "main")]
    revision: String,
    /// Write headers only and leave holes for the weights
    #[arg(long)]
    sparse: bool,
    /// Seed of the weights
    #[arg(long, default_value_t = 0, conflicts_with = "sparse")]
    seed: u64,
    /// Write into a directory that is not empty (directory layout): files of the same names are replaced, others stay
    #[arg(long)]
    force: bool,
    /// The model's directory, or the cache
    out_dir: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Size {
    /// Under 2 MB
    Tiny,
    /// About 110 MB
    Demo,
    /// Z-Image-Turbo itself, 33 GB
    True,
}

#[derive(Clone, Copy, ValueEnum)]
enum Layout {
    /// A diffusers directory
    Directory,
    /// One file with all components, `all-in-one.safetensors`, as ComfyUI saves it
    AllInOne,
    /// A Hugging Face cache: snapshot links to blobs
    HubCache,
    /// A Hugging Face cache whose repositories share a store of blobs
    HubCacheShared,
    /// A Hugging Face cache without links
    HubCachePlain,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let dims = match arguments.size {
        Size::Tiny => Dims::tiny(),
        Size::Demo => Dims::demo(),
        Size::True => Dims::true_size(),
    };
    let contents = if arguments.sparse { Contents::Sparse } else { Contents::Random { seed: arguments.seed } };
    let checkpoint = Checkpoint::new(&dims, contents)?;
    let start = Instant::now();
    let cache_form = match arguments.layout {
        Layout::Directory | Layout::AllInOne => None,
        Layout::HubCache => Some(CacheForm::Links),
        Layout::HubCacheShared => Some(CacheForm::SharedStore),
        Layout::HubCachePlain => Some(CacheForm::PlainFiles),
    };
    let (written, commit) = match cache_form {
        None => {
            if !arguments.force {
                refuse_unless_empty(&arguments.out_dir)?;
            }
            let written = match arguments.layout {
                Layout::AllInOne => {
                    let name = "all-in-one.safetensors";
                    checkpoint.write_single_file(&arguments.out_dir, name, &FilePart::COMFY)?
                }
                _ => checkpoint.write_directory(&arguments.out_dir)?,
            };
            (written, None)
        }
        Some(form) => {
            let hub = checkpoint.write_hub_cache_as(form, &arguments.out_dir, &arguments.repo, &arguments.revision)?;
            (hub.written, Some(hub.commit))
        }
    };
    let mut out = std::io::stdout().lock();
    if let Some(commit) = commit {
        writeln!(out, "{} at {}, commit {commit}", arguments.repo, arguments.revision)?;
    }
    report(&mut out, &checkpoint, &written)?;
    writeln!(out, "{} files, {} bytes in {:.2?}", written.files.len(), written.bytes(), start.elapsed())?;
    Ok(())
}

fn refuse_unless_empty(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    let mut entries = folder.read_dir().with_context(|| format!("cannot read {}", folder.display()))?;
    if entries.next().is_some() {
        bail!("{} is not empty: choose another directory, or say --force", folder.display());
    }
    Ok(())
}

fn report(out: &mut impl Write, checkpoint: &Checkpoint, written: &Written) -> Result<()> {
    writeln!(out, "{}", written.root.display())?;
    for component in checkpoint.components() {
        let files = written.weight_files_of(component.name()).len();
        let (tensors, bytes) = (component.tensors().len(), component.payload_bytes());
        writeln!(out, "  {:<13}{tensors:>4} tensors in {files} file(s), {bytes:>14} bytes", component.name())?;
    }
    Ok(())
}

//! A hub to test downloads against, from the command line.

use std::{
    io::{Read, Write},
    path::PathBuf,
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use weightsd_fixtures::hub::{Fault, Hub, On};

const EXAMPLES: &str = "\
Prints one line of JSON and serves until its standard input ends.

Examples:
  A model of 2 MB, to be had by any client of the Hub:
    make-checkpoint --size tiny /tmp/z-image
    test-hub --repo Tongyi-MAI/Z-Image-Turbo=/tmp/z-image
    HF_ENDPOINT=http://127.0.0.1:<port> hf download Tongyi-MAI/Z-Image-Turbo
  As over a slow line:
    test-hub --repo org/name=/tmp/z-image --rate 2000000

While it runs, on the endpoint:
  GET    /_test/requests    what was asked
  POST   /_test/clear-log   forget it
  POST   /_test/fault       {\"on\": {\"side\": \"cdn\", \"path\": \"vae/\"}, \"fault\": {\"cut\": {\"after\": 1000}}, \"times\": 2}
  DELETE /_test/faults      all well again
  POST   /_test/point       {\"repo\": \"org/name\", \"revision\": \"main\", \"commit\": \"…\"}";

/// Serve directories as repositories of a Hugging Face Hub on loopback
#[derive(Parser)]
#[command(after_help = EXAMPLES)]
struct Arguments {
    /// A repository and the directory it is made of; may be repeated
    #[arg(long = "repo", value_name = "ORG/NAME=DIR", required = true, value_parser = repo)]
    repos: Vec<(String, PathBuf)>,
    /// Branch that points at them
    #[arg(long, default_value = "main")]
    revision: String,
    /// Bytes per second of each file that is sent
    #[arg(long, value_name = "BYTES")]
    rate: Option<u64>,
    /// Send large files from the hub itself, as mirrors do
    #[arg(long)]
    lfs_direct: bool,
    /// Send small files through a relative redirect, as the real Hub does
    #[arg(long)]
    resolve_cache: bool,
    /// Make the repositories private, to be seen with this token only
    #[arg(long)]
    token: Option<String>,
}

fn repo(text: &str) -> Result<(String, PathBuf)> {
    match text.split_once('=') {
        Some((repo, folder)) if !repo.is_empty() && !folder.is_empty() => Ok((repo.to_owned(), folder.into())),
        _ => bail!("expected ORG/NAME=DIR"),
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let hub = Hub::start().context("cannot listen")?;
    let mut commits = serde_json::Map::new();
    for (repo, folder) in &arguments.repos {
        let commit = hub.publish_directory(repo, &arguments.revision, folder)?;
        hub.set_lfs_direct(repo, arguments.lfs_direct);
        hub.set_resolve_cache(repo, arguments.resolve_cache);
        if let Some(token) = &arguments.token {
            hub.require_token(repo, token);
        }
        commits.insert(repo.clone(), commit.into());
    }
    if let Some(bytes_per_second) = arguments.rate {
        hub.fault(On::cdn(""), Fault::Slow { bytes_per_second });
        hub.fault(On::resolve(""), Fault::Slow { bytes_per_second });
    }
    let line = serde_json::json!({
        "endpoint": hub.endpoint(),
        "cdn": hub.cdn(),
        "stranger": hub.stranger(),
        "commits": commits,
    });
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    let mut ignored = [0; 256];
    while std::io::stdin().read(&mut ignored)? > 0 {}
    Ok(())
}

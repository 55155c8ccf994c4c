//! Benchmarks of weightsd. Each prints a table with its baselines, measured in the same run over the same files, and
//! the ratio to them. What the figures were on which machine is in README.md beside this crate.

#![forbid(unsafe_code)]

mod acquire;
mod baseline;
mod clients;
mod concurrent;
mod daemon;
mod derive;
mod download;
mod inspect;
mod prefetch;
mod samples;
mod server;
mod status;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Measures weightsd against baselines in the same run. Build everything first: cargo build --release --workspace
#[derive(Debug, Parser)]
struct Args {
    /// The daemon to measure
    #[arg(long, global = true, default_value = "target/release/weightsd")]
    weightsd: PathBuf,
    /// A Python with the packages `safetensors` and `numpy`
    #[arg(long, global = true, default_value = "target/ci/venv/bin/python")]
    python: PathBuf,
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// From a request to a table of addressable tensors, warm, at 0.2, 12 and 24 GB
    Acquire {
        /// Samples of each figure
        #[arg(long, default_value_t = 1000)]
        samples: usize,
    },
    /// Clients that load a warm component all at once, against the unary calls that they get instead
    Concurrent {
        /// How many
        #[arg(long, default_value_t = 16)]
        clients: usize,
    },
    /// GetStatus against a bare tonic echo, quiet and beside others
    Status {
        /// Samples of each figure
        #[arg(long, default_value_t = 2000)]
        samples: usize,
    },
    /// Serves that echo
    #[command(hide = true)]
    Echo {
        /// Where
        socket: PathBuf,
    },
    /// A warm component through other clients, against the Rust client
    Clients {
        /// Samples of each figure
        #[arg(long, default_value_t = 2000)]
        samples: usize,
        /// A command that measures a client, such as that of bench/c/acquire.c; several times for several clients
        #[arg(long = "client", value_name = "COMMAND")]
        clients: Vec<String>,
        /// Where the files are written, in sight of the commands [default: the system's folder for temporary files]
        #[arg(long)]
        folder: Option<PathBuf>,
    },
    /// What a single file of 1,095 tensors holds, told from its header
    Inspect {
        /// Samples of each figure
        #[arg(long, default_value_t = 200)]
        samples: usize,
    },
    /// From the hub to verified files, against curl and huggingface_hub
    Download {
        /// Megabytes of each repository
        #[arg(long, default_value_t = 2000)]
        megabytes: u64,
        /// Downloads of each kind
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Where the files are written [default: the system's folder for temporary files]
        #[arg(long)]
        folder: Option<PathBuf>,
    },
    /// From a checkpoint to a derived image, against Python's MLX and the disk; needs root and twice its size of disk
    Derive {
        /// Layers of the transformer: 30 are those of Z-Image-Turbo, 24.6 GB
        #[arg(long, default_value_t = 30)]
        layers: u64,
        /// Leave the input in memory, so that the disk is no limit to reading it; fewer layers then
        #[arg(long)]
        warm: bool,
        /// Where the files are written [default: the system's folder for temporary files]
        #[arg(long)]
        folder: Option<PathBuf>,
    },
    /// A cold component: reading ahead while it is mapped, against O_DIRECT and against touching its pages
    Prefetch {
        /// Layers of the transformer: 30 are those of Z-Image-Turbo, 12.3 GB
        #[arg(long, default_value_t = 30)]
        layers: u64,
        /// Rounds
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Where the files are written [default: the system's folder for temporary files]
        #[arg(long)]
        folder: Option<PathBuf>,
    },
    /// Start, idle memory and idle wake-ups of the daemon
    Daemon {
        /// Starts
        #[arg(long, default_value_t = 50)]
        samples: usize,
    },
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match args.bench {
        Bench::Acquire { samples } => acquire::run(&args.weightsd, &args.python, samples),
        Bench::Concurrent { clients } => concurrent::run(&args.weightsd, clients),
        Bench::Status { samples } => status::run(&args.weightsd, samples),
        Bench::Echo { socket } => status::echo(&socket),
        Bench::Clients { samples, clients, folder } => {
            clients::run(&args.weightsd, &clients, samples, folder.as_deref())
        }
        Bench::Inspect { samples } => inspect::run(samples),
        Bench::Download { megabytes, rounds, folder } => {
            download::run(&args.weightsd, &args.python, megabytes, rounds, folder.as_deref())
        }
        Bench::Derive { layers, warm, folder } => {
            let input = if warm { derive::Input::Warm } else { derive::Input::Cold };
            derive::run(&args.weightsd, &args.python, layers, input, folder.as_deref())
        }
        Bench::Prefetch { layers, rounds, folder } => prefetch::run(&args.weightsd, layers, rounds, folder.as_deref()),
        Bench::Daemon { samples } => daemon::run(&args.weightsd, samples),
    }
}

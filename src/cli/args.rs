//! The commands and flags of the command line. Doc comments on fields and variants are their help texts.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Parser, Subcommand};
use clap_complete::Shell;
use weightsd_client::Quantisation;
use weightsd_core::quantisation::Mode;

pub(super) use super::choices::{FloatType, FolderFormat, InstallPlatform, Layout, Residency};
use super::serve::{Doctor, Serve, Stating};
use crate::{derive, messages, vram};

/// Lends model weights to every process of this machine: opened once, checked once, shared by all.
#[derive(Debug, Parser)]
#[command(
    name = "weightsd",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  weightsd serve                                     run the daemon
  weightsd load Tongyi-MAI/Z-Image-Turbo transformer load a component and keep it warm
  weightsd inspect model.safetensors                 what is in a file
  weightsd demo                                      see it all work, without network or weights

Exit codes: 0 success, 64 the command or the request is wrong, 69 something is away and may come back, 70 a fault of
weightsd, 130 interrupted, 1 anything else."
)]
pub(super) struct Args {
    /// The daemon's socket [default: the usual place of this user]
    #[arg(long, global = true, env = "WEIGHTSD_SOCKET", value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "a process has one command")]
pub(super) enum Command {
    /// Run the daemon in the foreground, until SIGTERM or Ctrl-C
    Serve(Box<Serve>),
    #[command(flatten)]
    Task(Task),
}

/// Commands that end by themselves.
#[derive(Debug, Subcommand)]
pub(super) enum Task {
    /// Load a component of a model, and hold it or keep it warm
    Load(Load),
    /// Make a folder that other programs open as a model: links to the shared files
    Path(PathArgs),
    /// Download what a model's components need, and verify it
    Pull(Pull),
    /// Compare the files of a model with their hashes (needs no network)
    Verify(Verify),
    /// Wait until this machine has components of a model
    Wait(Wait),
    /// Show every setting, its value, and where the value comes from (needs no daemon)
    Config(Box<Stating>),
    /// Check what the daemon needs on this machine, and say what to do (needs no daemon)
    Doctor(Doctor),
    /// Show the state of the daemon
    #[command(after_help = "\
Examples:
  weightsd status
  weightsd status --json | jq .hub_endpoint")]
    Status,
    /// Watch the daemon: what is lent, what is under way, what happens; q quits
    #[command(after_help = "\
Examples:
  weightsd top")]
    Top,
    /// List the components in the daemon's cache, and who holds them
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Show what a model spec means: path, commit, components, files
    #[command(after_help = "\
Examples:
  weightsd resolve Tongyi-MAI/Z-Image-Turbo
  weightsd resolve org/repo:v2 --offline
  weightsd resolve ./my-model --json")]
    Resolve(Model),
    /// Compare the components of a model with what its family says they must hold
    Audit(Audit),
    /// Show what a safetensors or GGUF file or a model holds, and its tensors (needs no daemon)
    Inspect(Inspect),
    /// Say why a component or an image is here, who holds it, how long it stays, and what would push it out
    Explain(Explain),
    /// Drop components that nobody holds from the daemon's cache
    Evict(Evict),
    /// Show what happened in the daemon, and what happens now
    Events(Events),
    /// Show everything with a small made-up Z-Image: two processes share one model's pages
    Demo(Demo),
    #[command(hide = true)]
    DemoClient(DemoClient),
    #[command(hide = true, name = derive::worker::COMMAND, alias = derive::worker::TELLING)]
    DeriveWorker,
    #[command(hide = true, name = vram::loader::COMMAND)]
    VramLoader,
    /// Let launchd (macOS) or systemd (Linux) start the daemon on the first connection
    #[command(after_help = "\
Examples:
  weightsd install --dry-run
  weightsd install")]
    Install(Install),
    /// Take back what `weightsd install` wrote
    #[command(after_help = "\
Examples:
  weightsd uninstall --dry-run
  weightsd uninstall")]
    Uninstall(Install),
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  weightsd completions bash > ~/.local/share/bash-completion/completions/weightsd
  weightsd completions zsh > ~/.zfunc/_weightsd
  weightsd completions fish > ~/.config/fish/completions/weightsd.fish")]
    Completions {
        /// The shell
        shell: Shell,
    },
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    std::path::absolute(text).map_err(|error| error.to_string())
}

/// A model, and where it is looked up.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Model {
    /// A path, or a Hugging Face id: org/repo, org/repo:revision, org/repo:Q4_K_M of GGUF files
    pub(super) model: String,
    /// Revision of the Hugging Face id
    #[arg(long, value_name = "REV")]
    pub(super) revision: Option<String>,
    /// The Hugging Face cache [default: as huggingface_hub finds it]
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    pub(super) hub_cache: Option<PathBuf>,
    /// Variant of the weights, such as fp16, or Q4_K_M of GGUF files
    #[arg(long, value_name = "NAME")]
    pub(super) variant: Option<String>,
    /// Only weight files whose paths match this glob (may be repeated)
    #[arg(long = "pattern", value_name = "GLOB")]
    pub(super) patterns: Vec<String>,
    /// Do not ask the hub
    #[arg(long)]
    pub(super) offline: bool,
}

/// Models beside the one that is asked for.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Beside {
    /// Model whose configs are used, for weights without configs of their own
    #[arg(long, value_name = "MODEL")]
    pub(super) base: Option<String>,
    /// File whose tensors replace some or all of the component's
    #[arg(long, value_name = "MODEL")]
    pub(super) overlay: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weightsd load Tongyi-MAI/Z-Image-Turbo text_encoder --keep-alive 1h
  weightsd load ./my-model vae --layout source --hold
  weightsd load ./all-in-one.safetensors transformer --base Tongyi-MAI/Z-Image-Turbo
  weightsd load Tongyi-MAI/Z-Image-Turbo transformer --overlay ./finetuned.safetensors
  weightsd load Tongyi-MAI/Z-Image-Turbo transformer --quantise affine:4:64
  weightsd load Tongyi-MAI/Z-Image-Turbo transformer --adapter ./style.safetensors --adapter-scale 0.8")]
pub(super) struct Load {
    #[command(flatten)]
    pub(super) model: Model,
    #[command(flatten)]
    pub(super) beside: Beside,
    /// The component, such as transformer, text_encoder or vae
    pub(super) component: String,
    /// Names and memory order of the tensors
    #[arg(long, value_enum, default_value_t = Layout::Mlx)]
    pub(super) layout: Layout,
    #[command(flatten)]
    pub(super) treatment: Treatment,
    /// Before lending, compare files that were on this machine before with their hashes
    #[arg(long)]
    pub(super) verify: bool,
    /// Lend it even if the audit finds faults
    #[arg(long)]
    pub(super) report_only: bool,
    /// How long the component stays warm after its last holder
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(super) keep_alive: Option<Duration>,
    /// Hold the component until Ctrl-C, and show what the daemon says about it
    #[arg(long)]
    pub(super) hold: bool,
    /// How its bytes come into memory while it is held
    #[arg(long, value_enum, requires = "hold", default_value_t = Residency::Prefetch)]
    pub(super) residency: Residency,
    /// Put it into the memory of an NVIDIA card, once for all processes: `cuda`, `cuda:1`, or the card's UUID
    #[arg(long, value_name = "CARD")]
    pub(super) device: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The folder stays; what was computed for it is deleted when the budget of images is spent and nobody holds it. Hold it with \
--hold, or let a command run while it is held: the command finds the path in WEIGHTSD_PATH.

Examples:
  weightsd path Tongyi-MAI/Z-Image-Turbo --dtype bf16
  weightsd path org/language-model --format mlx --quantise affine:4:64
  weightsd path Tongyi-MAI/Z-Image-Turbo --dtype bf16 -- sh -c 'python serve.py \"$WEIGHTSD_PATH\"'")]
pub(super) struct PathArgs {
    #[command(flatten)]
    pub(super) model: Model,
    #[command(flatten)]
    pub(super) beside: Beside,
    /// The programs that it is for [default: diffusers for a pipeline, transformers for another model]
    #[arg(long, value_enum)]
    pub(super) format: Option<FolderFormat>,
    /// The component of a pipeline that adapters and an overlay are for [default: transformer]
    #[arg(long, value_name = "NAME")]
    pub(super) component: Option<String>,
    #[command(flatten)]
    pub(super) treatment: Treatment,
    /// Where the folder is made [default: in weightsd's own cache]
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    pub(super) root: Option<PathBuf>,
    /// Hold what it links to until Ctrl-C
    #[arg(long, conflicts_with = "command")]
    pub(super) hold: bool,
    /// A command that runs while it is held
    #[arg(last = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,
}

/// What is computed, once for all requests that want the same.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Computing")]
pub(super) struct Treatment {
    /// Dtype of floats [default: in layout mlx the family's, bf16 for Z-Image; otherwise as stored]
    #[arg(long, value_enum)]
    pub(super) dtype: Option<FloatType>,
    /// Quantise layers: affine, mxfp4, mxfp8 or nvfp4, with bits and group size if wanted, such as affine:8:32
    #[arg(long, alias = "quantize", value_name = "MODE[:BITS[:GROUP]]", value_parser = quantisation)]
    pub(super) quantise: Option<Quantisation>,
    /// Quantise only layers whose names match this glob (may be repeated) [default: the family's rule]
    #[arg(long, value_name = "GLOB", requires = "quantise")]
    pub(super) only: Vec<String>,
    /// Do not quantise layers whose names match this glob (may be repeated)
    #[arg(long = "except", value_name = "GLOB", requires = "quantise")]
    pub(super) excluding: Vec<String>,
    /// Lend quantised layers as plain ones
    #[arg(long, alias = "dequantize", conflicts_with = "quantise")]
    pub(super) dequantise: bool,
    /// Add a LoRA, LoKr or LoHa: a file, a directory or a Hugging Face id (may be repeated)
    #[arg(long = "adapter", alias = "lora", value_name = "MODEL")]
    pub(super) adapters: Vec<String>,
    /// Scale of an adapter, given once for each adapter [default: 1]
    #[arg(long = "adapter-scale", value_name = "N", requires = "adapters", allow_negative_numbers = true)]
    pub(super) scales: Vec<f64>,
    /// Glob that chooses the file of an adapter that has several
    #[arg(long, value_name = "GLOB", requires = "adapters")]
    pub(super) adapter_pattern: Option<String>,
    /// Leave quantised layers plain after an adapter was merged into them, instead of quantising them again
    #[arg(long, requires = "adapters")]
    pub(super) merged_plain: bool,
}

/// Parses `affine:4:64`; the parts after the mode may be absent.
fn quantisation(text: &str) -> Result<Quantisation, String> {
    let mut parts = text.split(':');
    let mode = Mode::parse(parts.next().unwrap_or_default()).map_err(|error| error.to_string())?;
    let mut number = || match parts.next() {
        None => Ok(0),
        Some(part) => part.parse().map_err(|_| format!("{part:?} is no number; expected MODE:BITS:GROUP")),
    };
    let (bits, group_size) = (number()?, number()?);
    if parts.next().is_some() {
        return Err("expected MODE:BITS:GROUP".to_owned());
    }
    Ok(Quantisation { mode: messages::mode(mode).into(), bits, group_size, ..Quantisation::default() })
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weightsd pull Tongyi-MAI/Z-Image-Turbo
  weightsd pull Tongyi-MAI/Z-Image-Turbo vae text_encoder
  weightsd pull org/repo --all --pattern 'tokenizer/*'")]
pub(super) struct Pull {
    #[command(flatten)]
    pub(super) model: Model,
    /// Components [default: all]
    pub(super) components: Vec<String>,
    /// Everything that the repository has, README and all; patterns then choose among all files
    #[arg(long, conflicts_with = "components")]
    pub(super) all: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weightsd verify Tongyi-MAI/Z-Image-Turbo
  weightsd verify Tongyi-MAI/Z-Image-Turbo transformer")]
pub(super) struct Verify {
    #[command(flatten)]
    pub(super) model: Model,
    /// Components [default: every file of the model that is here]
    pub(super) components: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
What is missing is downloaded, and the components stay warm as after `weightsd load`. While the daemon is not up yet, or the \
hub is away, it goes on waiting; with --offline also while nobody has brought the files.

Examples:
  weightsd wait Tongyi-MAI/Z-Image-Turbo transformer vae
  weightsd wait org/language-model model --timeout 30m
  weightsd wait org/language-model model --offline")]
pub(super) struct Wait {
    #[command(flatten)]
    pub(super) model: Model,
    /// The components, such as transformer, text_encoder or vae
    #[arg(required = true)]
    pub(super) components: Vec<String>,
    /// Give up after this time [default: never]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(super) timeout: Option<Duration>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weightsd ls
  weightsd ls --resident
  weightsd ls --images")]
pub(super) struct Ls {
    /// Measure how much of each component is in memory
    #[arg(long)]
    pub(super) resident: bool,
    /// List the computed images on the disk, loaded or not, and what they were made from
    #[arg(long)]
    pub(super) images: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weightsd audit Tongyi-MAI/Z-Image-Turbo
  weightsd audit Tongyi-MAI/Z-Image-Turbo transformer --overlay ./finetuned.safetensors
  weightsd audit ./all-in-one.safetensors --full")]
pub(super) struct Audit {
    #[command(flatten)]
    pub(super) model: Model,
    #[command(flatten)]
    pub(super) beside: Beside,
    /// Components [default: all]
    pub(super) components: Vec<String>,
    /// Show all names and shapes, not only the first
    #[arg(long)]
    pub(super) full: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weightsd inspect model.safetensors
  weightsd inspect Tongyi-MAI/Z-Image-Turbo
  weightsd inspect Tongyi-MAI/Z-Image-Turbo transformer --match 'layers.0.*'
  weightsd inspect all-in-one.safetensors vae --full")]
pub(super) struct Inspect {
    #[command(flatten)]
    pub(super) model: Model,
    #[command(flatten)]
    pub(super) beside: Beside,
    /// Show the tensors of this component
    pub(super) component: Option<String>,
    /// Show only tensors whose names match this glob
    #[arg(long = "match", value_name = "GLOB")]
    pub(super) pattern: Option<String>,
    /// Show all tensors, not only the first
    #[arg(long)]
    pub(super) full: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weightsd explain 3f9a1c02
  weightsd explain 3f9a1c02 --json | jq .pushed_out_by")]
pub(super) struct Explain {
    /// First digits of the id, as `weightsd ls` and `weightsd ls --images` show it
    pub(super) id: String,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weightsd evict --dry-run
  weightsd evict 3f9a1c02
  weightsd evict --images")]
pub(super) struct Evict {
    /// First digits of the component's id, as `weightsd ls` shows it [default: all that nobody holds]
    pub(super) id: Option<String>,
    /// Only print what would be done
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Also delete computed images that nobody holds
    #[arg(long, conflicts_with = "id")]
    pub(super) images: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weightsd events
  weightsd events --follow --json | jq .event.message")]
pub(super) struct Events {
    /// Keep showing events until Ctrl-C
    #[arg(long, short)]
    pub(super) follow: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  weightsd demo
  weightsd demo --keep")]
pub(super) struct Demo {
    /// Keep the files it makes
    #[arg(long)]
    pub(super) keep: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct DemoClient {
    pub(super) model: String,
    #[arg(long)]
    pub(super) hub_cache: PathBuf,
}

/// `weightsd install` and `weightsd uninstall`.
#[derive(Debug, clap::Args)]
pub(super) struct Install {
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Leave the service manager alone, and say which commands it needs
    #[arg(long, conflicts_with = "dry_run")]
    pub(super) no_load: bool,
    /// The service manager's system [default: this one]
    #[arg(long, value_enum)]
    pub(super) platform: Option<InstallPlatform>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Args::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples_and_every_example_can_be_read() {
        let mut root = super::Args::command();
        root.build();
        let shown = |command: &clap::Command| command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let commands =
            || root.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help");
        for command in commands() {
            let help = shown(command);
            let examples: Vec<&str> = help.lines().filter(|line| line.starts_with("  weightsd ")).collect();
            assert!(!examples.is_empty(), "`{}` has no example", command.get_name());
            for example in examples {
                let words = example.split(['|', '>']).next().unwrap_or_default();
                let words = words.split_whitespace().map(|word| word.trim_matches('\''));
                super::Args::command().try_get_matches_from(words).unwrap_or_else(|error| panic!("{example}: {error}"));
            }
        }
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut super::Args::command(), "weightsd", &mut script);
            let script = String::from_utf8(script).unwrap();
            for command in commands() {
                assert!(script.contains(command.get_name()), "{shell} does not complete `{}`", command.get_name());
            }
        }
    }
}

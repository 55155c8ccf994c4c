//! The values among which flags choose. Doc comments are their help texts.

use clap::ValueEnum;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Layout {
    /// Names of modules, and kernels in OHWI order
    Mlx,
    /// Names and order of the checkpoint
    Source,
    /// Names of mflux's modules, kernels in OHWI order
    Mflux,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Residency {
    /// The daemon reads ahead
    Prefetch,
    /// When somebody touches them
    Lazy,
    /// Locked in memory, within `pin_budget`
    Pinned,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum FloatType {
    /// Each tensor as it is in the checkpoint
    AsStored,
    /// bfloat16
    Bf16,
    /// IEEE half
    F16,
    /// IEEE single
    F32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum FolderFormat {
    /// diffusers
    Diffusers,
    /// transformers and sentence-transformers
    Transformers,
    /// mlx-lm
    Mlx,
    /// mflux
    Mflux,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum InstallPlatform {
    /// systemd
    Linux,
    /// launchd
    Macos,
}

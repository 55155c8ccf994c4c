//! The numbers that options and answers are written in. Where the wire has a number for the same thing, it is the same
//! number: a test below holds them together.

use weightsd_client::Dtype;

/// Names and memory order of the tensors.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum weightsd_layout {
    /// MLX.
    Default = 0,
    /// Module names of the family's MLX modules; convolution kernels in OHWI order.
    Mlx = 1,
    /// Names and shapes of the family's published checkpoints, in the order of the file.
    Source = 2,
    /// Names of the modules of mflux; convolution kernels in OHWI order. Of families that say what mflux calls them.
    Mflux = 3,
}

/// The dtype of floats that are not part of a quantised layer.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum weightsd_float {
    /// The family's usual one.
    Default = 0,
    /// Each as it is in the checkpoint.
    AsStored = 1,
    /// bfloat16.
    Bf16 = 2,
    /// IEEE half.
    F16 = 3,
    /// IEEE single.
    F32 = 4,
}

/// How the codes of a quantised layer stand for numbers; the names are MLX's.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum weightsd_mode {
    /// In a request the same as AFFINE; in an answer a mode that this library does not know.
    Default = 0,
    /// Integers with a scale and a bias for each group.
    Affine = 1,
    /// 4-bit floats (E2M1), with one E8M0 scale for each 32 of them.
    Mxfp4 = 2,
    /// 8-bit floats (E4M3), with one E8M0 scale for each 32 of them.
    Mxfp8 = 3,
    /// 4-bit floats (E2M1), with one E4M3 scale for each 16 of them.
    Nvfp4 = 4,
}

/// The part of a tensor in a layer that is stored in a format that MLX does not have.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum weightsd_coding_role {
    /// Something that this library does not know.
    Unknown = 0,
    /// The codes; of a computed tensor the numbers that they stand for.
    Weight = 1,
    /// The numbers by which codes are multiplied.
    Scales = 2,
    /// A factor on the scales.
    GlobalScale = 3,
    /// The numbers that are added to the products.
    ZeroPoints = 4,
    /// One on which the layer's weight does not depend: its mark, or the scale of its input.
    Other = 5,
}

/// What a failed audit does.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum weightsd_audit_policy {
    /// The same as STRICT.
    Default = 0,
    /// It refuses the load.
    Strict = 1,
    /// Nothing: the report says what is wrong.
    ReportOnly = 2,
}

/// How long the caller holds the component.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum weightsd_hold {
    /// The same as STREAM.
    Default = 0,
    /// Until it is released or freed.
    Stream = 1,
    /// Not at all: the component is mapped and not leased, and no notice comes.
    None = 2,
}

/// When the daemon hashes files that were on this machine before.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum weightsd_verification {
    /// The same as AFTERWARDS.
    Default = 0,
    /// Once, after the component is lent.
    Afterwards = 1,
    /// Once, before it is lent.
    Before = 2,
}

/// What is done with quantised layers after adapters were merged into them.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum weightsd_merged {
    /// The same as REQUANTISED.
    Default = 0,
    /// They are quantised again.
    Requantised = 1,
    /// They stay plain.
    Plain = 2,
}

/// Whether the hub may be asked.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum weightsd_network {
    /// As the variables of this process's environment say (`HF_HUB_OFFLINE`).
    Environment = 0,
    /// It may.
    Allowed = 1,
    /// It may not: what the cache knows is the answer.
    Offline = 2,
}

/// How this process gets the files.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum weightsd_handoff {
    /// As descriptors from the daemon. They stay the same file even if the path changes.
    Descriptors = 0,
    /// By opening the daemon's paths and comparing the identity of each file.
    Path = 1,
}

/// What a load is doing.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum weightsd_phase {
    /// Something that this library does not know.
    Other = 0,
    /// Finding the model and its files.
    Resolve = 1,
    /// Opening files and reading their headers.
    Open = 2,
    /// Planning and auditing.
    Audit = 3,
    /// Downloading what is missing.
    Download = 4,
    /// Comparing files with their hashes.
    Verify = 5,
    /// Computing tensors.
    Derive = 6,
}

/// What a notice is about.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum weightsd_notice_kind {
    /// Something that this library does not know; the message says what.
    Other = 0,
    /// The daemon stops; what is mapped stays readable.
    ShuttingDown = 1,
    /// Somebody changed a file under the component; its bytes can no longer be trusted.
    FileChanged = 2,
    /// A file under the component does not have its hash; its bytes cannot be trusted.
    Corrupt = 3,
    /// A file under the component was deleted, moved or replaced. What is mapped keeps its bytes; the next load finds what
    /// is there now. `FileChanged` may follow.
    FileGone = 4,
    /// There is a lease again, on the same component, from the daemon that serves now.
    LeasedAgain = 5,
    /// There is no lease any more. What is mapped stays readable, and no notice follows.
    LeaseLost = 6,
    /// The component's bytes are not, or not all, locked in memory.
    NotPinned = 7,
}

/// Where a segment's bytes come from.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum weightsd_segment_kind {
    /// Something that this library does not know.
    Other = 0,
    /// The checkpoint's own file.
    Checkpoint = 1,
    /// A file that the daemon computed. Every tensor in it begins at a page.
    Derived = 2,
}

/// The type of a tensor's elements; the names are those of safetensors.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are safetensors' own")]
pub enum weightsd_dtype {
    /// A type that this library has no number for; `dtype_name` says which.
    Other = 0,
    Bool = 1,
    U8 = 2,
    I8 = 3,
    U16 = 4,
    I16 = 5,
    U32 = 6,
    I32 = 7,
    U64 = 8,
    I64 = 9,
    F16 = 10,
    Bf16 = 11,
    F32 = 12,
    F64 = 13,
    C64 = 14,
    F8E5m2 = 15,
    F8E4m3 = 16,
    F8E8m0 = 17,
    F8E4m3fnuz = 18,
    F8E5m2fnuz = 19,
    F4 = 20,
    F6E2m3 = 21,
    F6E3m2 = 22,
}

/// The number of a dtype, and its name with a null at the end.
pub(crate) fn dtype(dtype: Dtype) -> (weightsd_dtype, &'static str) {
    use weightsd_dtype as d;
    match dtype {
        Dtype::BOOL => (d::Bool, "BOOL\0"),
        Dtype::U8 => (d::U8, "U8\0"),
        Dtype::I8 => (d::I8, "I8\0"),
        Dtype::U16 => (d::U16, "U16\0"),
        Dtype::I16 => (d::I16, "I16\0"),
        Dtype::U32 => (d::U32, "U32\0"),
        Dtype::I32 => (d::I32, "I32\0"),
        Dtype::U64 => (d::U64, "U64\0"),
        Dtype::I64 => (d::I64, "I64\0"),
        Dtype::F16 => (d::F16, "F16\0"),
        Dtype::BF16 => (d::Bf16, "BF16\0"),
        Dtype::F32 => (d::F32, "F32\0"),
        Dtype::F64 => (d::F64, "F64\0"),
        Dtype::C64 => (d::C64, "C64\0"),
        Dtype::F8_E5M2 => (d::F8E5m2, "F8_E5M2\0"),
        Dtype::F8_E4M3 => (d::F8E4m3, "F8_E4M3\0"),
        Dtype::F8_E8M0 => (d::F8E8m0, "F8_E8M0\0"),
        Dtype::F8_E4M3FNUZ => (d::F8E4m3fnuz, "F8_E4M3FNUZ\0"),
        Dtype::F8_E5M2FNUZ => (d::F8E5m2fnuz, "F8_E5M2FNUZ\0"),
        Dtype::F4 => (d::F4, "F4\0"),
        Dtype::F6_E2M3 => (d::F6E2m3, "F6_E2M3\0"),
        Dtype::F6_E3M2 => (d::F6E3m2, "F6_E3M2\0"),
        _ => (d::Other, "?\0"),
    }
}

pub(crate) fn phase(number: i32) -> weightsd_phase {
    use weightsd_phase as p;
    [p::Resolve, p::Open, p::Audit, p::Download, p::Verify, p::Derive]
        .into_iter()
        .find(|phase| *phase as i32 == number)
        .unwrap_or(p::Other)
}

pub(crate) fn notice_kind(number: i32) -> weightsd_notice_kind {
    use weightsd_notice_kind as k;
    [k::ShuttingDown, k::FileChanged, k::Corrupt, k::FileGone, k::LeasedAgain, k::LeaseLost, k::NotPinned]
        .into_iter()
        .find(|kind| *kind as i32 == number)
        .unwrap_or(k::Other)
}

pub(crate) fn segment_kind(number: i32) -> weightsd_segment_kind {
    use weightsd_segment_kind as k;
    [k::Checkpoint, k::Derived].into_iter().find(|kind| *kind as i32 == number).unwrap_or(k::Other)
}

pub(crate) fn coding_role(number: i32) -> weightsd_coding_role {
    use weightsd_coding_role as r;
    [r::Weight, r::Scales, r::GlobalScale, r::ZeroPoints, r::Other]
        .into_iter()
        .find(|role| *role as i32 == number)
        .unwrap_or(r::Unknown)
}

pub(crate) fn mode(number: i32) -> weightsd_mode {
    use weightsd_mode as m;
    [m::Affine, m::Mxfp4, m::Mxfp8, m::Nvfp4].into_iter().find(|mode| *mode as i32 == number).unwrap_or(m::Default)
}

#[cfg(test)]
mod tests {
    use weightsd_client::{
        AuditPolicy, FloatType, Hold, Layout, MergedLayers, Phase, QuantisationMode, Verification,
        proto::{CodingRole, NoticeKind, SegmentKind},
    };

    use super::*;

    macro_rules! same {
        ($($ours:expr => $theirs:expr),+ $(,)?) => {$(
            assert_eq!($ours as i32, $theirs as i32, "{}", stringify!($ours));
        )+};
    }

    #[test]
    fn numbers_are_those_of_the_wire() {
        same! {
            weightsd_layout::Mlx => Layout::Mlx, weightsd_layout::Source => Layout::Source,
            weightsd_layout::Mflux => Layout::Mflux,
            weightsd_float::AsStored => FloatType::AsStored, weightsd_float::Bf16 => FloatType::Bf16,
            weightsd_float::F16 => FloatType::F16, weightsd_float::F32 => FloatType::F32,
            weightsd_mode::Affine => QuantisationMode::Affine, weightsd_mode::Mxfp4 => QuantisationMode::Mxfp4,
            weightsd_mode::Mxfp8 => QuantisationMode::Mxfp8, weightsd_mode::Nvfp4 => QuantisationMode::Nvfp4,
            weightsd_coding_role::Weight => CodingRole::Weight, weightsd_coding_role::Scales => CodingRole::Scales,
            weightsd_coding_role::GlobalScale => CodingRole::GlobalScale,
            weightsd_coding_role::ZeroPoints => CodingRole::ZeroPoints,
            weightsd_coding_role::Other => CodingRole::Other,
            weightsd_audit_policy::Strict => AuditPolicy::Strict,
            weightsd_audit_policy::ReportOnly => AuditPolicy::ReportOnly,
            weightsd_hold::Stream => Hold::Stream, weightsd_hold::None => Hold::None,
            weightsd_verification::Afterwards => Verification::Afterwards,
            weightsd_verification::Before => Verification::Before,
            weightsd_merged::Requantised => MergedLayers::Requantised, weightsd_merged::Plain => MergedLayers::Plain,
            weightsd_phase::Resolve => Phase::Resolve, weightsd_phase::Open => Phase::Open,
            weightsd_phase::Audit => Phase::Audit, weightsd_phase::Download => Phase::Download,
            weightsd_phase::Verify => Phase::Verify, weightsd_phase::Derive => Phase::Derive,
            weightsd_notice_kind::ShuttingDown => NoticeKind::ShuttingDown,
            weightsd_notice_kind::FileChanged => NoticeKind::FileChanged,
            weightsd_notice_kind::Corrupt => NoticeKind::Corrupt,
            weightsd_notice_kind::FileGone => NoticeKind::FileGone,
            weightsd_notice_kind::LeasedAgain => NoticeKind::LeasedAgain,
            weightsd_notice_kind::LeaseLost => NoticeKind::LeaseLost,
            weightsd_notice_kind::NotPinned => NoticeKind::NotPinned,
            weightsd_segment_kind::Checkpoint => SegmentKind::Checkpoint,
            weightsd_segment_kind::Derived => SegmentKind::Derived,
        }
    }

    #[test]
    fn what_is_unknown_is_called_so() {
        assert_eq!(phase(Phase::Derive as i32), weightsd_phase::Derive);
        assert_eq!(phase(77), weightsd_phase::Other);
        assert_eq!(notice_kind(0), weightsd_notice_kind::Other);
        assert_eq!(segment_kind(9), weightsd_segment_kind::Other);
        assert_eq!(mode(4), weightsd_mode::Nvfp4);
        let (number, name) = dtype(Dtype::F8_E4M3);
        assert_eq!((number, name), (weightsd_dtype::F8E4m3, "F8_E4M3\0"));
    }
}

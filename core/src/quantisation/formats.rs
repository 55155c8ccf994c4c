//! The table of formats. Suffixes of the tensors of quantised layers are spelled here and nowhere else.
//!
//! Rows are tried from top to bottom, so a format that has all slots of another one and more comes first. MLX's formats
//! follow `mlx.nn`; the others follow the libraries that write them (GPTQModel, AutoAWQ, bitsandbytes, compressed-tensors,
//! ComfyUI, ModelOpt, nunchaku and others).

use super::{
    Mode,
    codes::{Codes, TileScale},
    format::{
        Arithmetic::{self, Lent, Mlx, Ours},
        CodeRule, Computed, Format, Formula, Gives, GridRule, RotationRule,
        SlotDtype::{self, Any, Float, OneOf},
        SlotRole::{
            Biases, Codebook, Description, GlobalScale, GroupIndex, InputScale, LowRank, Scales, Smoothing, Weight,
            ZeroPoints,
        },
        SlotShape::{
            self, Columns, ColumnsByAny, EachMatrix, Free, Groups, Padded, RowsByAny, RowsOrOne, TransposedGroups,
            Words,
        },
        SlotSpec,
    },
    mark::MARK_SUFFIX,
};
use crate::{header::Dtype, layer_name::WEIGHT};

/// 8-bit floats.
const F8: SlotDtype = OneOf(&[Dtype::F8_E4M3, Dtype::F8_E5M2, Dtype::F8_E4M3FNUZ, Dtype::F8_E5M2FNUZ]);
/// MLX keeps the bytes of 8-bit floats as U8; other writers name what they are.
const E8M0: SlotDtype = OneOf(&[Dtype::U8, Dtype::F8_E8M0]);
const E4M3: SlotDtype = OneOf(&[Dtype::U8, Dtype::F8_E4M3]);
const U32: SlotDtype = OneOf(&[Dtype::U32]);
const F32: SlotDtype = OneOf(&[Dtype::F32]);
/// Floats, or powers of two in 8 bits.
const SCALE: SlotDtype = OneOf(&[Dtype::F32, Dtype::BF16, Dtype::F16, Dtype::F8_E8M0]);
const U8: SlotDtype = OneOf(&[Dtype::U8]);
const I8: SlotDtype = OneOf(&[Dtype::I8]);
const I32: SlotDtype = OneOf(&[Dtype::I32]);
/// One code an element.
const PLAIN: SlotShape = Padded { multiple: 1, codes: 1 };

/// ComfyUI's description of a layer: JSON as bytes.
const COMFY_QUANT: SlotSpec = SlotSpec::optional(Description, MARK_SUFFIX, U8, Free).whole();
/// Scales of inputs in the formats of ComfyUI and ModelOpt.
const INPUT_SCALE: SlotSpec = SlotSpec::optional(InputScale, ".input_scale", Any, RowsOrOne).common().whole();
/// A factor for each column, by which the input is multiplied.
const PRE_QUANT_SCALE: SlotSpec = SlotSpec::optional(Smoothing, ".pre_quant_scale", Any, Free).whole();

/// Codes under the name that plain weights have too.
const fn weight(dtype: SlotDtype, shape: SlotShape) -> SlotSpec {
    SlotSpec::required(Weight, WEIGHT, dtype, shape).common()
}

const fn mlx(mode: Mode, bits: &'static [u64], group_sizes: &'static [u64], gives: Gives) -> Arithmetic {
    Mlx(Computed { mode, bits, group_sizes, gives })
}

/// Codes times scales. Tensors alone tell what they mean.
const fn ours(codes: CodeRule, grid: GridRule) -> Arithmetic {
    Ours(Formula { codes, grid, rotation: RotationRule::Never, unmarked: None })
}

/// As [`ours`], but only the mark of a layer tells what its tensors mean.
const fn marked(codes: Codes, grid: GridRule, rotation: RotationRule, unmarked: &'static str) -> Arithmetic {
    Ours(Formula { codes: CodeRule::Always(codes), grid, rotation, unmarked: Some(unmarked) })
}

/// Why nothing is computed from the formats of other libraries.
const PACKED: Arithmetic = Lent("its codes are packed in an order of its own library, which is not read here");
/// The same for formats of CUDA kernels.
const KERNEL: Arithmetic = Lent("its codes are packed for CUDA kernels, which alone read them");
/// What the tensors of a layer do not tell.
const TILES_UNSAID: &str = "nothing says in which order its codes and scales lie";
const ROTATION_UNSAID: &str = "nothing says whether it was rotated";

/// All formats.
pub static FORMATS: &[Format] = &[
    Format {
        name: "affine",
        methods: &[],
        marks: &[],
        slots: &[
            weight(U32, Words),
            SlotSpec::required(Scales, ".scales", Float, Groups).common(),
            SlotSpec::required(Biases, ".biases", Float, Groups).common(),
        ],
        arithmetic: mlx(Mode::Affine, &[4, 2, 3, 5, 6, 8], &[64, 32, 128], Gives::LikeScales),
    },
    Format {
        name: "mxfp4",
        methods: &[],
        marks: &[],
        slots: &[weight(U32, Words), SlotSpec::required(Scales, ".scales", E8M0, Groups).common()],
        arithmetic: mlx(Mode::Mxfp4, &[4], &[32], Gives::Bf16OrF32),
    },
    Format {
        name: "mxfp8",
        methods: &[],
        marks: &[],
        slots: &[weight(U32, Words), SlotSpec::required(Scales, ".scales", E8M0, Groups).common()],
        arithmetic: mlx(Mode::Mxfp8, &[8], &[32], Gives::Bf16OrF32),
    },
    Format {
        name: "nvfp4",
        methods: &[],
        marks: &[],
        slots: &[
            weight(U32, Words),
            SlotSpec::required(Scales, ".scales", E4M3, Groups).common(),
            SlotSpec::optional(GlobalScale, ".global_scale", F32, EachMatrix).common(),
        ],
        arithmetic: mlx(Mode::Nvfp4, &[4], &[16], Gives::Bf16OrF32),
    },
    Format {
        name: "SVDQuant",
        methods: &["svdquant", "nunchaku"],
        marks: &[],
        slots: &[
            SlotSpec::required(Weight, ".qweight", I8, Padded { multiple: 1, codes: 2 }).whole(),
            SlotSpec::required(Scales, ".wscales", Any, TransposedGroups(&[64, 16])).whole(),
            SlotSpec::optional(GlobalScale, ".wtscale", Any, EachMatrix).whole(),
            SlotSpec::optional(GlobalScale, ".wcscales", Any, RowsOrOne).whole(),
            SlotSpec::optional(Smoothing, ".smooth_factor", Any, Columns).common().whole(),
            SlotSpec::optional(Smoothing, ".smooth_factor_orig", Any, Columns).common().whole(),
            SlotSpec::optional(LowRank, ".proj_down", Any, ColumnsByAny).common().whole(),
            SlotSpec::optional(LowRank, ".proj_up", Any, RowsByAny).common().whole(),
        ],
        arithmetic: KERNEL,
    },
    Format {
        name: "GPTQ",
        methods: &["gptq", "gptq_marlin", "marlin"],
        marks: &[],
        slots: &[
            SlotSpec::required(Weight, ".qweight", I32, Free).whole(),
            SlotSpec::required(ZeroPoints, ".qzeros", I32, Free).whole(),
            SlotSpec::required(Scales, ".scales", Float, Free).common().whole(),
            SlotSpec::required(GroupIndex, ".g_idx", I32, Free).whole(),
        ],
        arithmetic: PACKED,
    },
    Format {
        name: "AWQ",
        methods: &["awq", "awq_marlin"],
        marks: &[],
        slots: &[
            SlotSpec::required(Weight, ".qweight", I32, Free).whole(),
            SlotSpec::required(ZeroPoints, ".qzeros", I32, Free).whole(),
            SlotSpec::required(Scales, ".scales", Float, Free).common().whole(),
        ],
        arithmetic: PACKED,
    },
    Format {
        name: "compressed-tensors",
        methods: &["compressed-tensors", "compressed_tensors"],
        marks: &[],
        slots: &[
            SlotSpec::required(Weight, ".weight_packed", OneOf(&[Dtype::I32, Dtype::U8, Dtype::I8]), Free),
            SlotSpec::required(Scales, ".weight_scale", Any, Free),
            SlotSpec::optional(Description, ".weight_shape", Any, Free).whole(),
            SlotSpec::optional(ZeroPoints, ".weight_zero_point", Any, Free),
            SlotSpec::optional(GroupIndex, ".weight_g_idx", Any, Free).whole(),
            SlotSpec::optional(GlobalScale, ".weight_global_scale", Any, Free).whole(),
            SlotSpec::optional(InputScale, ".input_global_scale", Any, Free).whole(),
            INPUT_SCALE,
        ],
        arithmetic: PACKED,
    },
    Format {
        name: "bitsandbytes 4-bit",
        methods: &["bitsandbytes", "bitsandbytes_4bit", "bnb"],
        marks: &[],
        slots: &[
            weight(U8, Free).whole(),
            SlotSpec::required(Scales, ".weight.absmax", Any, Free).whole(),
            SlotSpec::optional(Codebook, ".weight.quant_map", Any, Free).whole(),
            SlotSpec::optional(GlobalScale, ".weight.nested_absmax", Any, Free).whole(),
            SlotSpec::optional(Codebook, ".weight.nested_quant_map", Any, Free).whole(),
            SlotSpec::optional(Description, ".weight.quant_state.bitsandbytes__nf4", U8, Free).whole(),
            SlotSpec::optional(Description, ".weight.quant_state.bitsandbytes__fp4", U8, Free).whole(),
        ],
        arithmetic: PACKED,
    },
    Format {
        name: "bitsandbytes 8-bit",
        methods: &["bitsandbytes", "bitsandbytes_8bit"],
        marks: &[],
        slots: &[
            weight(I8, PLAIN),
            SlotSpec::required(Scales, ".SCB", Any, RowsOrOne),
            SlotSpec::optional(Description, ".weight_format", Any, Free).whole(),
        ],
        arithmetic: PACKED,
    },
    Format {
        name: "NVFP4 with two scales",
        methods: &["modelopt", "nvfp4"],
        marks: &["nvfp4"],
        slots: &[
            weight(U8, Padded { multiple: 16, codes: 2 }),
            SlotSpec::required(Scales, ".weight_scale", OneOf(&[Dtype::F8_E4M3, Dtype::U8]), Free).tiled(),
            SlotSpec::required(GlobalScale, ".weight_scale_2", Float, EachMatrix).whole(),
            INPUT_SCALE,
            PRE_QUANT_SCALE,
            COMFY_QUANT,
        ],
        arithmetic: marked(Codes::E2m1, GridRule::Tiled(16, TileScale::E4m3), RotationRule::Never, TILES_UNSAID),
    },
    Format {
        name: "MXFP8 in 8-bit floats",
        methods: &["mxfp8"],
        marks: &["mxfp8"],
        slots: &[
            weight(OneOf(&[Dtype::F8_E4M3]), Padded { multiple: 32, codes: 1 }),
            SlotSpec::required(Scales, ".weight_scale", OneOf(&[Dtype::F8_E8M0, Dtype::U8]), Free).tiled(),
            INPUT_SCALE,
            PRE_QUANT_SCALE,
            COMFY_QUANT,
        ],
        arithmetic: marked(Codes::E4m3, GridRule::Tiled(32, TileScale::E8m0), RotationRule::Never, TILES_UNSAID),
    },
    Format {
        name: "FP8 in blocks",
        methods: &["fp8"],
        marks: &[],
        slots: &[weight(F8, PLAIN), SlotSpec::required(Scales, ".weight_scale_inv", SCALE, Free).whole(), INPUT_SCALE],
        arithmetic: ours(CodeRule::ByDtype, GridRule::Squares(128)),
    },
    Format {
        name: "FP8 of DeepSeek",
        methods: &["fp8"],
        marks: &[],
        slots: &[weight(F8, PLAIN), SlotSpec::required(Scales, ".scale", SCALE, Free).common(), INPUT_SCALE],
        arithmetic: ours(CodeRule::ByDtype, GridRule::ByShape { side: 128, group: 32 }),
    },
    Format {
        name: "MXFP4 of DeepSeek",
        methods: &["fp8", "mxfp4"],
        marks: &[],
        slots: &[
            weight(OneOf(&[Dtype::I8, Dtype::U8, Dtype::F4]), Free).whole(),
            SlotSpec::required(Scales, ".scale", OneOf(&[Dtype::F8_E8M0]), Free).common(),
        ],
        arithmetic: Lent("nothing says which half of a byte its even columns are in"),
    },
    Format {
        name: "scaled FP8",
        methods: &["fp8", "fbgemm_fp8", "modelopt", "compressed-tensors", "finegrained_fp8"],
        marks: &["float8_e4m3fn", "float8_e5m2"],
        slots: &[
            weight(F8, PLAIN),
            SlotSpec::required(Scales, ".weight_scale", Float, RowsOrOne),
            INPUT_SCALE,
            PRE_QUANT_SCALE,
            COMFY_QUANT,
        ],
        arithmetic: ours(CodeRule::ByDtype, GridRule::RowsOrOne),
    },
    Format {
        name: "scaled FP8 of early ComfyUI",
        methods: &["fp8"],
        marks: &[],
        slots: &[
            weight(F8, PLAIN),
            SlotSpec::required(Scales, ".scale_weight", Float, RowsOrOne),
            SlotSpec::optional(InputScale, ".scale_input", Any, RowsOrOne).common().whole(),
        ],
        arithmetic: ours(CodeRule::ByDtype, GridRule::RowsOrOne),
    },
    Format {
        name: "AWQ of ComfyUI",
        methods: &[],
        marks: &["awq_w4a16"],
        slots: &[
            weight(I8, Padded { multiple: 1, codes: 2 }),
            SlotSpec::required(Scales, ".weight_scale", Float, Free).whole(),
            SlotSpec::required(ZeroPoints, ".weight_zeros", Float, Free).whole(),
            COMFY_QUANT,
        ],
        arithmetic: marked(Codes::U4, GridRule::Transposed(64), RotationRule::Never, TILES_UNSAID),
    },
    Format {
        name: "scaled INT8",
        methods: &["int8", "compressed-tensors"],
        marks: &["int8_tensorwise"],
        slots: &[
            weight(I8, PLAIN),
            SlotSpec::required(Scales, ".weight_scale", Float, RowsOrOne),
            SlotSpec::optional(ZeroPoints, ".weight_zero_point", Any, Free),
            INPUT_SCALE,
            PRE_QUANT_SCALE,
            COMFY_QUANT,
        ],
        arithmetic: marked(Codes::I8, GridRule::RowsOrOne, RotationRule::IfMarked, ROTATION_UNSAID),
    },
    Format {
        name: "ConvRot W4A4",
        methods: &[],
        marks: &["convrot_w4a4"],
        slots: &[
            weight(I8, Padded { multiple: 1, codes: 2 }),
            SlotSpec::required(Scales, ".weight_scale", Float, RowsOrOne),
            INPUT_SCALE,
            PRE_QUANT_SCALE,
            COMFY_QUANT,
        ],
        arithmetic: marked(Codes::I4, GridRule::RowsOrOne, RotationRule::Always, ROTATION_UNSAID),
    },
    Format {
        name: "W4A8 with a codebook",
        methods: &[],
        marks: &["asym_w4a8_int8"],
        slots: &[
            weight(OneOf(&[Dtype::I8, Dtype::U8]), Free).whole(),
            SlotSpec::required(Scales, ".weight_scale", Any, Free).whole(),
            COMFY_QUANT,
        ],
        arithmetic: Lent("its codebook and its corrections are not read here"),
    },
    Format {
        name: "EETQ",
        methods: &["eetq"],
        marks: &[],
        slots: &[weight(I8, Free).whole(), SlotSpec::required(Scales, ".weight_scales", Any, RowsOrOne)],
        arithmetic: PACKED,
    },
    Format {
        name: "BitNet",
        methods: &["bitnet"],
        marks: &[],
        slots: &[weight(U8, Free).whole(), SlotSpec::required(Scales, ".weight_scale", Any, RowsOrOne)],
        arithmetic: PACKED,
    },
    Format {
        name: "scaled FP8 in bytes",
        methods: &[],
        marks: &["float8_e4m3fn", "float8_e5m2"],
        slots: &[
            weight(U8, PLAIN),
            SlotSpec::required(Scales, ".weight_scale", Float, RowsOrOne),
            INPUT_SCALE,
            PRE_QUANT_SCALE,
            COMFY_QUANT,
        ],
        arithmetic: Ours(Formula {
            codes: CodeRule::ByMark,
            grid: GridRule::RowsOrOne,
            rotation: RotationRule::Never,
            unmarked: Some("nothing says which 8-bit floats its bytes are"),
        }),
    },
    Format {
        name: "quanto",
        methods: &["quanto"],
        marks: &[],
        slots: &[
            SlotSpec::required(Weight, ".weight._data", Any, Free).whole(),
            SlotSpec::required(Scales, ".weight._scale", Any, Free).whole(),
            SlotSpec::optional(ZeroPoints, ".weight._shift", Any, Free).whole(),
            INPUT_SCALE,
            SlotSpec::optional(InputScale, ".output_scale", Any, RowsOrOne).common().whole(),
        ],
        arithmetic: PACKED,
    },
    Format {
        name: "HQQ",
        methods: &["hqq"],
        marks: &[],
        slots: &[
            SlotSpec::required(Weight, ".W_q", Any, Free).whole(),
            SlotSpec::optional(Scales, ".scale", Any, Free).common().whole(),
            SlotSpec::optional(ZeroPoints, ".zero", Any, Free).common().whole(),
        ],
        arithmetic: PACKED,
    },
    Format {
        name: "AQLM",
        methods: &["aqlm"],
        marks: &[],
        slots: &[
            SlotSpec::required(Weight, ".codes", Any, Free).common().whole(),
            SlotSpec::required(Codebook, ".codebooks", Any, Free).common().whole(),
            SlotSpec::required(Scales, ".scales", Any, Free).common().whole(),
        ],
        arithmetic: PACKED,
    },
    Format {
        name: "MXFP4 in blocks",
        methods: &["mxfp4"],
        marks: &[],
        slots: &[
            SlotSpec::required(Weight, "_blocks", U8, Free).common(),
            SlotSpec::required(Scales, "_scales", U8, Free).common(),
        ],
        arithmetic: PACKED,
    },
    Format {
        name: "FP8 without a scale",
        methods: &["fp8"],
        marks: &[],
        slots: &[weight(F8, PLAIN), COMFY_QUANT],
        arithmetic: ours(CodeRule::ByDtype, GridRule::Unscaled),
    },
];

/// The 8-bit floats that a mark means by its word for a format.
#[must_use]
pub fn marked_float(word: &str) -> Option<Codes> {
    match word {
        "float8_e4m3fn" => Some(Codes::E4m3),
        "float8_e5m2" => Some(Codes::E5m2),
        _ => None,
    }
}

/// Tensors that stand for a whole file and say that its FP8 weights are scaled.
const FILE_MARKS: &[&str] = &["scaled_fp8"];
/// Ends of the names of tensors that concern how a layer is run.
const HARMLESS: &[&str] = &[".comfy_attention.config"];

/// Whether a tensor of that name, under whatever prefix, says that its file's FP8 weights are scaled.
#[must_use]
pub fn is_file_mark(name: &str) -> bool {
    FILE_MARKS.contains(&name.rsplit('.').next().unwrap_or(name))
}

/// Whether a tensor of that name concerns how a layer is run, and no stored weight.
#[must_use]
pub fn is_harmless(name: &str) -> bool {
    HARMLESS.iter().any(|suffix| name.ends_with(suffix))
}

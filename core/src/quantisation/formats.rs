//! The table of formats. Suffixes of the tensors of quantised layers are spelled here and nowhere else.
//!
//! Rows are tried from top to bottom, so a format that has all parts of another one and more comes first. MLX's formats
//! follow `mlx.nn`; the others follow the libraries that write them (GPTQModel, AutoAWQ, bitsandbytes, compressed-tensors,
//! ComfyUI, ModelOpt, nunchaku and others).

use super::{
    Mode,
    format::{
        Computed, Format, Gives,
        PartDtype::{self, Any, Float, OneOf},
        PartRole::{
            Biases, Codebook, Description, GlobalScale, GroupIndex, InputScale, LowRank, Scales, Smoothing, Weight,
            ZeroPoints,
        },
        PartShape::{self, EachMatrix, Free, Groups, Padded, RowsOrOne, Words},
        PartSpec,
    },
};
use crate::{header::Dtype, layer_name::WEIGHT};

/// 8-bit floats, as whose bytes old writers also wrote U8.
const F8: PartDtype = OneOf(&[Dtype::F8_E4M3, Dtype::F8_E5M2, Dtype::F8_E4M3FNUZ, Dtype::F8_E5M2FNUZ]);
/// MLX keeps the bytes of 8-bit floats as U8; other writers name what they are.
const E8M0: PartDtype = OneOf(&[Dtype::U8, Dtype::F8_E8M0]);
const E4M3: PartDtype = OneOf(&[Dtype::U8, Dtype::F8_E4M3]);
const U32: PartDtype = OneOf(&[Dtype::U32]);
const F32: PartDtype = OneOf(&[Dtype::F32]);
const U8: PartDtype = OneOf(&[Dtype::U8]);
const I8: PartDtype = OneOf(&[Dtype::I8]);
const I32: PartDtype = OneOf(&[Dtype::I32]);
/// One code an element.
const PLAIN: PartShape = Padded { multiple: 1, codes: 1 };

/// ComfyUI's description of a layer: JSON as bytes.
const COMFY_QUANT: PartSpec = PartSpec::optional(Description, ".comfy_quant", U8, Free).whole();
/// Scales of inputs in the formats of ComfyUI and ModelOpt.
const INPUT_SCALE: PartSpec = PartSpec::optional(InputScale, ".input_scale", Any, RowsOrOne).common().whole();
/// A factor for each column, by which the input is multiplied.
const PRE_QUANT_SCALE: PartSpec = PartSpec::optional(Smoothing, ".pre_quant_scale", Any, Free).whole();

/// Codes under the name that plain weights have too.
const fn weight(dtype: PartDtype, shape: PartShape) -> PartSpec {
    PartSpec::required(Weight, WEIGHT, dtype, shape).common()
}

const fn mlx(mode: Mode, bits: &'static [u64], group_sizes: &'static [u64], gives: Gives) -> Option<Computed> {
    Some(Computed { mode, bits, group_sizes, gives })
}

/// All formats.
pub static FORMATS: &[Format] = &[
    Format {
        name: "affine",
        methods: &[],
        parts: &[
            weight(U32, Words),
            PartSpec::required(Scales, ".scales", Float, Groups).common(),
            PartSpec::required(Biases, ".biases", Float, Groups).common(),
        ],
        computed: mlx(Mode::Affine, &[4, 2, 3, 5, 6, 8], &[64, 32, 128], Gives::LikeScales),
    },
    Format {
        name: "mxfp4",
        methods: &[],
        parts: &[weight(U32, Words), PartSpec::required(Scales, ".scales", E8M0, Groups).common()],
        computed: mlx(Mode::Mxfp4, &[4], &[32], Gives::Bf16OrF32),
    },
    Format {
        name: "mxfp8",
        methods: &[],
        parts: &[weight(U32, Words), PartSpec::required(Scales, ".scales", E8M0, Groups).common()],
        computed: mlx(Mode::Mxfp8, &[8], &[32], Gives::Bf16OrF32),
    },
    Format {
        name: "nvfp4",
        methods: &[],
        parts: &[
            weight(U32, Words),
            PartSpec::required(Scales, ".scales", E4M3, Groups).common(),
            PartSpec::optional(GlobalScale, ".global_scale", F32, EachMatrix).common(),
        ],
        computed: mlx(Mode::Nvfp4, &[4], &[16], Gives::Bf16OrF32),
    },
    Format {
        name: "SVDQuant",
        methods: &["svdquant", "nunchaku"],
        parts: &[
            PartSpec::required(Weight, ".qweight", I8, Padded { multiple: 1, codes: 2 }),
            PartSpec::required(Scales, ".wscales", Any, Free).whole(),
            PartSpec::optional(GlobalScale, ".wtscale", Any, Free).whole(),
            PartSpec::optional(GlobalScale, ".wcscales", Any, RowsOrOne),
            PartSpec::optional(Smoothing, ".smooth_factor", Any, Free).common().whole(),
            PartSpec::optional(Smoothing, ".smooth_factor_orig", Any, Free).common().whole(),
            PartSpec::optional(LowRank, ".proj_down", Any, Free).common().whole(),
            PartSpec::optional(LowRank, ".proj_up", Any, Free).common(),
        ],
        computed: None,
    },
    Format {
        name: "GPTQ",
        methods: &["gptq", "gptq_marlin", "marlin"],
        parts: &[
            PartSpec::required(Weight, ".qweight", I32, Free).whole(),
            PartSpec::required(ZeroPoints, ".qzeros", I32, Free).whole(),
            PartSpec::required(Scales, ".scales", Float, Free).common().whole(),
            PartSpec::required(GroupIndex, ".g_idx", I32, Free).whole(),
        ],
        computed: None,
    },
    Format {
        name: "AWQ",
        methods: &["awq", "awq_marlin"],
        parts: &[
            PartSpec::required(Weight, ".qweight", I32, Free).whole(),
            PartSpec::required(ZeroPoints, ".qzeros", I32, Free).whole(),
            PartSpec::required(Scales, ".scales", Float, Free).common().whole(),
        ],
        computed: None,
    },
    Format {
        name: "compressed-tensors",
        methods: &["compressed-tensors", "compressed_tensors"],
        parts: &[
            PartSpec::required(Weight, ".weight_packed", OneOf(&[Dtype::I32, Dtype::U8, Dtype::I8]), Free),
            PartSpec::required(Scales, ".weight_scale", Any, Free),
            PartSpec::optional(Description, ".weight_shape", Any, Free).whole(),
            PartSpec::optional(ZeroPoints, ".weight_zero_point", Any, Free),
            PartSpec::optional(GroupIndex, ".weight_g_idx", Any, Free).whole(),
            PartSpec::optional(GlobalScale, ".weight_global_scale", Any, Free).whole(),
            PartSpec::optional(InputScale, ".input_global_scale", Any, Free).whole(),
            INPUT_SCALE,
        ],
        computed: None,
    },
    Format {
        name: "bitsandbytes 4-bit",
        methods: &["bitsandbytes", "bitsandbytes_4bit", "bnb"],
        parts: &[
            weight(U8, Free).whole(),
            PartSpec::required(Scales, ".weight.absmax", Any, Free).whole(),
            PartSpec::optional(Codebook, ".weight.quant_map", Any, Free).whole(),
            PartSpec::optional(GlobalScale, ".weight.nested_absmax", Any, Free).whole(),
            PartSpec::optional(Codebook, ".weight.nested_quant_map", Any, Free).whole(),
            PartSpec::optional(Description, ".weight.quant_state.bitsandbytes__nf4", U8, Free).whole(),
            PartSpec::optional(Description, ".weight.quant_state.bitsandbytes__fp4", U8, Free).whole(),
        ],
        computed: None,
    },
    Format {
        name: "bitsandbytes 8-bit",
        methods: &["bitsandbytes", "bitsandbytes_8bit"],
        parts: &[
            weight(I8, PLAIN),
            PartSpec::required(Scales, ".SCB", Any, RowsOrOne),
            PartSpec::optional(Description, ".weight_format", Any, Free).whole(),
        ],
        computed: None,
    },
    Format {
        name: "NVFP4 with two scales",
        methods: &["modelopt", "nvfp4"],
        parts: &[
            weight(U8, Padded { multiple: 16, codes: 2 }),
            PartSpec::required(Scales, ".weight_scale", OneOf(&[Dtype::F8_E4M3, Dtype::U8]), Free).tiled(),
            PartSpec::required(GlobalScale, ".weight_scale_2", Any, EachMatrix).whole(),
            INPUT_SCALE,
            PRE_QUANT_SCALE,
            COMFY_QUANT,
        ],
        computed: None,
    },
    Format {
        name: "MXFP8 in 8-bit floats",
        methods: &["mxfp8"],
        parts: &[
            weight(F8, Padded { multiple: 32, codes: 1 }),
            PartSpec::required(Scales, ".weight_scale", OneOf(&[Dtype::F8_E8M0, Dtype::U8]), Free).tiled(),
            INPUT_SCALE,
            PRE_QUANT_SCALE,
            COMFY_QUANT,
        ],
        computed: None,
    },
    Format {
        name: "FP8 in blocks",
        methods: &["fp8"],
        parts: &[weight(F8, PLAIN), PartSpec::required(Scales, ".weight_scale_inv", Any, Free).whole(), INPUT_SCALE],
        computed: None,
    },
    Format {
        name: "scaled FP8",
        methods: &["fp8", "fbgemm_fp8", "modelopt", "compressed-tensors", "finegrained_fp8"],
        parts: &[
            weight(F8, PLAIN),
            PartSpec::required(Scales, ".weight_scale", Float, RowsOrOne),
            INPUT_SCALE,
            PRE_QUANT_SCALE,
            COMFY_QUANT,
        ],
        computed: None,
    },
    Format {
        name: "scaled FP8 of early ComfyUI",
        methods: &["fp8"],
        parts: &[
            weight(F8, PLAIN),
            PartSpec::required(Scales, ".scale_weight", Float, RowsOrOne),
            PartSpec::optional(InputScale, ".scale_input", Any, RowsOrOne).common().whole(),
        ],
        computed: None,
    },
    Format {
        name: "AWQ of ComfyUI",
        methods: &["awq_w4a16"],
        parts: &[
            weight(I8, Padded { multiple: 1, codes: 2 }),
            PartSpec::required(Scales, ".weight_scale", Any, Free).whole(),
            PartSpec::required(ZeroPoints, ".weight_zeros", Any, Free).whole(),
            COMFY_QUANT,
        ],
        computed: None,
    },
    Format {
        name: "scaled INT8",
        methods: &["int8", "compressed-tensors"],
        parts: &[
            weight(I8, Free),
            PartSpec::required(Scales, ".weight_scale", Any, RowsOrOne),
            PartSpec::optional(ZeroPoints, ".weight_zero_point", Any, Free),
            INPUT_SCALE,
            PRE_QUANT_SCALE,
            COMFY_QUANT,
        ],
        computed: None,
    },
    Format {
        name: "EETQ",
        methods: &["eetq"],
        parts: &[weight(I8, Free).whole(), PartSpec::required(Scales, ".weight_scales", Any, RowsOrOne)],
        computed: None,
    },
    Format {
        name: "BitNet",
        methods: &["bitnet"],
        parts: &[weight(U8, Free).whole(), PartSpec::required(Scales, ".weight_scale", Any, RowsOrOne)],
        computed: None,
    },
    Format {
        name: "quanto",
        methods: &["quanto"],
        parts: &[
            PartSpec::required(Weight, ".weight._data", Any, Free).whole(),
            PartSpec::required(Scales, ".weight._scale", Any, Free).whole(),
            PartSpec::optional(ZeroPoints, ".weight._shift", Any, Free).whole(),
            INPUT_SCALE,
            PartSpec::optional(InputScale, ".output_scale", Any, RowsOrOne).common().whole(),
        ],
        computed: None,
    },
    Format {
        name: "HQQ",
        methods: &["hqq"],
        parts: &[
            PartSpec::required(Weight, ".W_q", Any, Free).whole(),
            PartSpec::optional(Scales, ".scale", Any, Free).common().whole(),
            PartSpec::optional(ZeroPoints, ".zero", Any, Free).common().whole(),
        ],
        computed: None,
    },
    Format {
        name: "AQLM",
        methods: &["aqlm"],
        parts: &[
            PartSpec::required(Weight, ".codes", Any, Free).common().whole(),
            PartSpec::required(Codebook, ".codebooks", Any, Free).common().whole(),
            PartSpec::required(Scales, ".scales", Any, Free).common().whole(),
        ],
        computed: None,
    },
    Format {
        name: "MXFP4 in blocks",
        methods: &["mxfp4"],
        parts: &[
            PartSpec::required(Weight, "_blocks", U8, Free).common(),
            PartSpec::required(Scales, "_scales", U8, Free).common(),
        ],
        computed: None,
    },
    Format { name: "FP8 without a scale", methods: &["fp8"], parts: &[weight(F8, PLAIN)], computed: None },
];

/// Tensors that stand for a whole file and say that its FP8 weights are scaled.
const FILE_MARKS: &[&str] = &["scaled_fp8"];

/// Whether a tensor of that name, under whatever prefix, says that its file's FP8 weights are scaled.
#[must_use]
pub fn is_file_mark(name: &str) -> bool {
    FILE_MARKS.contains(&name.rsplit('.').next().unwrap_or(name))
}

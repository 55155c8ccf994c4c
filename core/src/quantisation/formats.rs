//! The table of formats. Suffixes of the tensors of quantised layers are spelled here and nowhere else.
//!
//! Rows are tried from top to bottom, so a format that has all slots of another one and more comes first. MLX's formats
//! follow `mlx.nn`; the others follow the libraries that write them (GPTQModel, AutoAWQ, bitsandbytes, compressed-tensors,
//! ComfyUI, ModelOpt, nunchaku and others).

use super::{
    Mode,
    format::{
        Computed, Format, Gives,
        SlotDtype::{self, Any, Float, OneOf},
        SlotRole::{
            Biases, Codebook, Description, GlobalScale, GroupIndex, InputScale, LowRank, Scales, Smoothing, Weight,
            ZeroPoints,
        },
        SlotShape::{self, EachMatrix, Free, Groups, Padded, RowsOrOne, Words},
        SlotSpec,
    },
};
use crate::{header::Dtype, layer_name::WEIGHT};

/// 8-bit floats, as whose bytes old writers also wrote U8.
const F8: SlotDtype = OneOf(&[Dtype::F8_E4M3, Dtype::F8_E5M2, Dtype::F8_E4M3FNUZ, Dtype::F8_E5M2FNUZ]);
/// MLX keeps the bytes of 8-bit floats as U8; other writers name what they are.
const E8M0: SlotDtype = OneOf(&[Dtype::U8, Dtype::F8_E8M0]);
const E4M3: SlotDtype = OneOf(&[Dtype::U8, Dtype::F8_E4M3]);
const U32: SlotDtype = OneOf(&[Dtype::U32]);
const F32: SlotDtype = OneOf(&[Dtype::F32]);
const U8: SlotDtype = OneOf(&[Dtype::U8]);
const I8: SlotDtype = OneOf(&[Dtype::I8]);
const I32: SlotDtype = OneOf(&[Dtype::I32]);
/// One code an element.
const PLAIN: SlotShape = Padded { multiple: 1, codes: 1 };

/// ComfyUI's description of a layer: JSON as bytes.
const COMFY_QUANT: SlotSpec = SlotSpec::optional(Description, ".comfy_quant", U8, Free).whole();
/// Scales of inputs in the formats of ComfyUI and ModelOpt.
const INPUT_SCALE: SlotSpec = SlotSpec::optional(InputScale, ".input_scale", Any, RowsOrOne).common().whole();
/// A factor for each column, by which the input is multiplied.
const PRE_QUANT_SCALE: SlotSpec = SlotSpec::optional(Smoothing, ".pre_quant_scale", Any, Free).whole();

/// Codes under the name that plain weights have too.
const fn weight(dtype: SlotDtype, shape: SlotShape) -> SlotSpec {
    SlotSpec::required(Weight, WEIGHT, dtype, shape).common()
}

const fn mlx(mode: Mode, bits: &'static [u64], group_sizes: &'static [u64], gives: Gives) -> Option<Computed> {
    Some(Computed { mode, bits, group_sizes, gives })
}

/// All formats.
pub static FORMATS: &[Format] = &[
    Format {
        name: "affine",
        methods: &[],
        slots: &[
            weight(U32, Words),
            SlotSpec::required(Scales, ".scales", Float, Groups).common(),
            SlotSpec::required(Biases, ".biases", Float, Groups).common(),
        ],
        computed: mlx(Mode::Affine, &[4, 2, 3, 5, 6, 8], &[64, 32, 128], Gives::LikeScales),
    },
    Format {
        name: "mxfp4",
        methods: &[],
        slots: &[weight(U32, Words), SlotSpec::required(Scales, ".scales", E8M0, Groups).common()],
        computed: mlx(Mode::Mxfp4, &[4], &[32], Gives::Bf16OrF32),
    },
    Format {
        name: "mxfp8",
        methods: &[],
        slots: &[weight(U32, Words), SlotSpec::required(Scales, ".scales", E8M0, Groups).common()],
        computed: mlx(Mode::Mxfp8, &[8], &[32], Gives::Bf16OrF32),
    },
    Format {
        name: "nvfp4",
        methods: &[],
        slots: &[
            weight(U32, Words),
            SlotSpec::required(Scales, ".scales", E4M3, Groups).common(),
            SlotSpec::optional(GlobalScale, ".global_scale", F32, EachMatrix).common(),
        ],
        computed: mlx(Mode::Nvfp4, &[4], &[16], Gives::Bf16OrF32),
    },
    Format {
        name: "SVDQuant",
        methods: &["svdquant", "nunchaku"],
        slots: &[
            SlotSpec::required(Weight, ".qweight", I8, Padded { multiple: 1, codes: 2 }),
            SlotSpec::required(Scales, ".wscales", Any, Free).whole(),
            SlotSpec::optional(GlobalScale, ".wtscale", Any, Free).whole(),
            SlotSpec::optional(GlobalScale, ".wcscales", Any, RowsOrOne),
            SlotSpec::optional(Smoothing, ".smooth_factor", Any, Free).common().whole(),
            SlotSpec::optional(Smoothing, ".smooth_factor_orig", Any, Free).common().whole(),
            SlotSpec::optional(LowRank, ".proj_down", Any, Free).common().whole(),
            SlotSpec::optional(LowRank, ".proj_up", Any, Free).common(),
        ],
        computed: None,
    },
    Format {
        name: "GPTQ",
        methods: &["gptq", "gptq_marlin", "marlin"],
        slots: &[
            SlotSpec::required(Weight, ".qweight", I32, Free).whole(),
            SlotSpec::required(ZeroPoints, ".qzeros", I32, Free).whole(),
            SlotSpec::required(Scales, ".scales", Float, Free).common().whole(),
            SlotSpec::required(GroupIndex, ".g_idx", I32, Free).whole(),
        ],
        computed: None,
    },
    Format {
        name: "AWQ",
        methods: &["awq", "awq_marlin"],
        slots: &[
            SlotSpec::required(Weight, ".qweight", I32, Free).whole(),
            SlotSpec::required(ZeroPoints, ".qzeros", I32, Free).whole(),
            SlotSpec::required(Scales, ".scales", Float, Free).common().whole(),
        ],
        computed: None,
    },
    Format {
        name: "compressed-tensors",
        methods: &["compressed-tensors", "compressed_tensors"],
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
        computed: None,
    },
    Format {
        name: "bitsandbytes 4-bit",
        methods: &["bitsandbytes", "bitsandbytes_4bit", "bnb"],
        slots: &[
            weight(U8, Free).whole(),
            SlotSpec::required(Scales, ".weight.absmax", Any, Free).whole(),
            SlotSpec::optional(Codebook, ".weight.quant_map", Any, Free).whole(),
            SlotSpec::optional(GlobalScale, ".weight.nested_absmax", Any, Free).whole(),
            SlotSpec::optional(Codebook, ".weight.nested_quant_map", Any, Free).whole(),
            SlotSpec::optional(Description, ".weight.quant_state.bitsandbytes__nf4", U8, Free).whole(),
            SlotSpec::optional(Description, ".weight.quant_state.bitsandbytes__fp4", U8, Free).whole(),
        ],
        computed: None,
    },
    Format {
        name: "bitsandbytes 8-bit",
        methods: &["bitsandbytes", "bitsandbytes_8bit"],
        slots: &[
            weight(I8, PLAIN),
            SlotSpec::required(Scales, ".SCB", Any, RowsOrOne),
            SlotSpec::optional(Description, ".weight_format", Any, Free).whole(),
        ],
        computed: None,
    },
    Format {
        name: "NVFP4 with two scales",
        methods: &["modelopt", "nvfp4"],
        slots: &[
            weight(U8, Padded { multiple: 16, codes: 2 }),
            SlotSpec::required(Scales, ".weight_scale", OneOf(&[Dtype::F8_E4M3, Dtype::U8]), Free).tiled(),
            SlotSpec::required(GlobalScale, ".weight_scale_2", Any, EachMatrix).whole(),
            INPUT_SCALE,
            PRE_QUANT_SCALE,
            COMFY_QUANT,
        ],
        computed: None,
    },
    Format {
        name: "MXFP8 in 8-bit floats",
        methods: &["mxfp8"],
        slots: &[
            weight(F8, Padded { multiple: 32, codes: 1 }),
            SlotSpec::required(Scales, ".weight_scale", OneOf(&[Dtype::F8_E8M0, Dtype::U8]), Free).tiled(),
            INPUT_SCALE,
            PRE_QUANT_SCALE,
            COMFY_QUANT,
        ],
        computed: None,
    },
    Format {
        name: "FP8 in blocks",
        methods: &["fp8"],
        slots: &[weight(F8, PLAIN), SlotSpec::required(Scales, ".weight_scale_inv", Any, Free).whole(), INPUT_SCALE],
        computed: None,
    },
    Format {
        name: "scaled FP8",
        methods: &["fp8", "fbgemm_fp8", "modelopt", "compressed-tensors", "finegrained_fp8"],
        slots: &[
            weight(F8, PLAIN),
            SlotSpec::required(Scales, ".weight_scale", Float, RowsOrOne),
            INPUT_SCALE,
            PRE_QUANT_SCALE,
            COMFY_QUANT,
        ],
        computed: None,
    },
    Format {
        name: "scaled FP8 of early ComfyUI",
        methods: &["fp8"],
        slots: &[
            weight(F8, PLAIN),
            SlotSpec::required(Scales, ".scale_weight", Float, RowsOrOne),
            SlotSpec::optional(InputScale, ".scale_input", Any, RowsOrOne).common().whole(),
        ],
        computed: None,
    },
    Format {
        name: "AWQ of ComfyUI",
        methods: &["awq_w4a16"],
        slots: &[
            weight(I8, Padded { multiple: 1, codes: 2 }),
            SlotSpec::required(Scales, ".weight_scale", Any, Free).whole(),
            SlotSpec::required(ZeroPoints, ".weight_zeros", Any, Free).whole(),
            COMFY_QUANT,
        ],
        computed: None,
    },
    Format {
        name: "scaled INT8",
        methods: &["int8", "compressed-tensors"],
        slots: &[
            weight(I8, Free),
            SlotSpec::required(Scales, ".weight_scale", Any, RowsOrOne),
            SlotSpec::optional(ZeroPoints, ".weight_zero_point", Any, Free),
            INPUT_SCALE,
            PRE_QUANT_SCALE,
            COMFY_QUANT,
        ],
        computed: None,
    },
    Format {
        name: "EETQ",
        methods: &["eetq"],
        slots: &[weight(I8, Free).whole(), SlotSpec::required(Scales, ".weight_scales", Any, RowsOrOne)],
        computed: None,
    },
    Format {
        name: "BitNet",
        methods: &["bitnet"],
        slots: &[weight(U8, Free).whole(), SlotSpec::required(Scales, ".weight_scale", Any, RowsOrOne)],
        computed: None,
    },
    Format {
        name: "quanto",
        methods: &["quanto"],
        slots: &[
            SlotSpec::required(Weight, ".weight._data", Any, Free).whole(),
            SlotSpec::required(Scales, ".weight._scale", Any, Free).whole(),
            SlotSpec::optional(ZeroPoints, ".weight._shift", Any, Free).whole(),
            INPUT_SCALE,
            SlotSpec::optional(InputScale, ".output_scale", Any, RowsOrOne).common().whole(),
        ],
        computed: None,
    },
    Format {
        name: "HQQ",
        methods: &["hqq"],
        slots: &[
            SlotSpec::required(Weight, ".W_q", Any, Free).whole(),
            SlotSpec::optional(Scales, ".scale", Any, Free).common().whole(),
            SlotSpec::optional(ZeroPoints, ".zero", Any, Free).common().whole(),
        ],
        computed: None,
    },
    Format {
        name: "AQLM",
        methods: &["aqlm"],
        slots: &[
            SlotSpec::required(Weight, ".codes", Any, Free).common().whole(),
            SlotSpec::required(Codebook, ".codebooks", Any, Free).common().whole(),
            SlotSpec::required(Scales, ".scales", Any, Free).common().whole(),
        ],
        computed: None,
    },
    Format {
        name: "MXFP4 in blocks",
        methods: &["mxfp4"],
        slots: &[
            SlotSpec::required(Weight, "_blocks", U8, Free).common(),
            SlotSpec::required(Scales, "_scales", U8, Free).common(),
        ],
        computed: None,
    },
    Format { name: "FP8 without a scale", methods: &["fp8"], slots: &[weight(F8, PLAIN)], computed: None },
];

/// Tensors that stand for a whole file and say that its FP8 weights are scaled.
const FILE_MARKS: &[&str] = &["scaled_fp8"];

/// Whether a tensor of that name, under whatever prefix, says that its file's FP8 weights are scaled.
#[must_use]
pub fn is_file_mark(name: &str) -> bool {
    FILE_MARKS.contains(&name.rsplit('.').next().unwrap_or(name))
}

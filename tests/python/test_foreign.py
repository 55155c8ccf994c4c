"""Checkpoints in quantisations that MLX does not have: lent as they are stored, byte for byte, named, and nothing is
computed from them. And what declarations and neighbouring tensors say of MLX's own: used, or refused by name.

The formats are those of public reports: ComfyUI's scaled FP8 and NVFP4, AWQ, GPTQ, bitsandbytes, FP8 in blocks, mixed
bits of mlx-lm, nvfp4 with a global scale."""

import json
from pathlib import Path

import grpc
import ml_dtypes
import mlx.core as mx
import numpy as np
import pytest
from daemon import error_detail
from derive_inputs import any_bits, generic, normal, save, small
from derive_judge import BF16, F16, F32, Scheme, packed, quantise
from judged import mlx_lm
from layouts import Tensors, read_component, same, transformer_to_original
from lent import array, check, lent, numpy
from weights.v1 import audit_pb2, component_pb2, model_pb2

SOURCE = component_pb2.LAYOUT_SOURCE
REPORT_ONLY = audit_pb2.AUDIT_POLICY_REPORT_ONLY
AS_STORED, ALL_BF16 = component_pb2.FLOAT_TYPE_AS_STORED, component_pb2.FLOAT_TYPE_BF16
FP8 = np.dtype(ml_dtypes.float8_e4m3fn)
MARKER = np.frombuffer(b'{"format": "float8_e4m3fn"}', np.uint8)
A4 = Scheme("affine", 4, 32)

QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 256, "intermediate_size": 256,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "num_hidden_layers": 1, "vocab_size": 96,
    "rms_norm_eps": 1e-6, "rope_theta": 1000000, "tie_word_embeddings": True, "max_position_embeddings": 512,
}  # fmt: skip


def qwen3() -> Tensors:
    """A small language model in the layout of transformers."""
    block = "model.layers.0"
    shapes = {
        "model.embed_tokens": (96, 256), f"{block}.self_attn.q_proj": (128, 256), f"{block}.self_attn.k_proj": (64, 256),
        f"{block}.self_attn.v_proj": (64, 256), f"{block}.self_attn.o_proj": (256, 128),
        f"{block}.mlp.gate_proj": (256, 256), f"{block}.mlp.up_proj": (256, 256), f"{block}.mlp.down_proj": (256, 256),
        f"{block}.self_attn.q_norm": (32,), f"{block}.self_attn.k_norm": (32,), f"{block}.input_layernorm": (256,),
        f"{block}.post_attention_layernorm": (256,), "model.norm": (256,),
    }  # fmt: skip
    return {f"{name}.weight": normal(seed, shape, BF16) for seed, (name, shape) in enumerate(shapes.items())}


def awq(layer: str, rows: int, columns: int) -> Tensors:
    groups = columns // 64
    return {
        f"{layer}.qweight": any_bits(1, (columns, rows // 8), np.dtype(np.int32)),
        f"{layer}.qzeros": any_bits(2, (groups, rows // 8), np.dtype(np.int32)),
        f"{layer}.scales": normal(3, (groups, rows), F16),
    }


def gptq(layer: str, rows: int, columns: int) -> Tensors:
    parts = awq(layer, rows, columns)
    parts[f"{layer}.qweight"] = any_bits(1, (columns // 8, rows), np.dtype(np.int32))
    return parts | {f"{layer}.g_idx": np.arange(columns, dtype=np.int32) // 64}


def bitsandbytes(layer: str, rows: int, columns: int) -> Tensors:
    return {
        f"{layer}.weight": any_bits(1, (rows * columns // 2, 1), np.dtype(np.uint8)),
        f"{layer}.weight.absmax": normal(2, (rows * columns // 64,)),
        f"{layer}.weight.quant_map": normal(3, (16,)),
        f"{layer}.weight.quant_state.bitsandbytes__nf4": any_bits(4, (90,), np.dtype(np.uint8)),
    }


FOREIGN = {"awq": awq, "gptq": gptq, "bitsandbytes": bitsandbytes}


def written(folder: Path, method: str, config: dict) -> Tensors:
    """A model with all its projections in a foreign format."""
    tensors: Tensors = {}
    for name, values in qwen3().items():
        layer = name.removesuffix(".weight")
        tensors |= FOREIGN[method](layer, *values.shape) if layer.endswith("_proj") else {name: values}
    generic(folder, tensors, config | {"quantization_config": {"quant_method": method}})
    return tensors


def refused(daemon, spec: Path, component: str, **options) -> str:
    with pytest.raises(grpc.RpcError) as raised:
        daemon.load(str(spec), component, **options)
    assert error_detail(raised.value).hint
    return raised.value.details()


@pytest.mark.parametrize("method", FOREIGN)
def test_a_foreign_quantisation_is_named_lent_and_not_computed_with(daemon, tmp_path, method):
    tensors = written(tmp_path / "known", method, QWEN3)
    (report,) = daemon.audit(str(tmp_path / "known")).reports
    assert any(f"`{method}`" in scheme.scheme for scheme in report.schemes), report
    # Modules of MLX cannot use it, and the refusal says what it is.
    assert f"`{method}`" in refused(daemon, tmp_path / "known", "model")
    check(lent(daemon.load(str(tmp_path / "known"), "model", layout=SOURCE)), tensors)
    check(lent(daemon.load(str(tmp_path / "known"), "model", audit_policy=REPORT_ONLY)), tensors)
    wishes = [{"quantise": A4.message()}, {"dequantise": True}, {"dtype": ALL_BF16}]
    for wish in wishes:
        for policy in ({"layout": SOURCE}, {"audit_policy": REPORT_ONLY}):
            assert f"`{method}`" in refused(daemon, tmp_path / "known", "model", **wish, **policy), wish
    # The same file under a name that nobody knows.
    other = written(tmp_path / "unknown", method, {"model_type": "nobody_knows"})
    check(lent(daemon.load(str(tmp_path / "unknown"), "model")), other)
    assert f"`{method}`" in refused(daemon, tmp_path / "unknown", "model", dequantise=True)


def fp8(tensors: Tensors, spelling: str, original: bool) -> Tensors:
    """The matrices of the blocks in FP8, as ComfyUI writes them."""
    out: Tensors = {}
    for name, values in (transformer_to_original(tensors) if original else tensors).items():
        layer = name.removesuffix(".weight")
        if values.ndim != 2 or not name.startswith("layers.") or layer == name:
            out[name] = values
            continue
        out[name] = (values.astype(np.float32) * 128).astype(FP8)
        scale, one = np.array(2.0**-7, np.float32), np.array(1, np.float32)
        if spelling == "scale_weight":
            out |= {f"{layer}.scale_weight": scale, f"{layer}.scale_input": one}
        elif spelling == "weight_scale":
            out |= {f"{layer}.weight_scale": scale, f"{layer}.input_scale": one, f"{layer}.comfy_quant": MARKER}
    return out | ({"scaled_fp8": np.zeros(2, FP8)} if spelling == "scale_weight" else {})


@pytest.fixture
def transformer(tmp_path) -> tuple[Path, Tensors]:
    root = small(tmp_path / "model")
    return root, read_component(root / "transformer")


def replace(root: Path, tensors: Tensors) -> None:
    for file in (root / "transformer").glob("*.safetensors*"):
        file.unlink()
    save(tensors, root / "transformer/diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("spelling", ["scale_weight", "weight_scale", "cast"])
def test_fp8_is_read_with_its_scale(daemon, transformer, spelling):
    root, tensors = transformer
    written = fp8(tensors, spelling, original=False)
    replace(root, written)
    check(lent(daemon.load(str(root), "transformer", layout=SOURCE)), written)
    factor = 1 if spelling == "cast" else 2.0**-7
    for wish in ({}, {"dtype": ALL_BF16}, {"dequantise": True}, {"audit_policy": REPORT_ONLY}):
        found = lent(daemon.load(str(root), "transformer", **wish))
        assert {values.dtype for values in found.values()} == {BF16}
        for name, values in written.items():
            if values.dtype == FP8 and name in tensors:
                assert same(found[name], (values.astype(np.float32) * factor).astype(BF16)), name


def test_a_fused_fp8_layer_keeps_scale_and_marker_together(daemon, transformer):
    root, tensors = transformer
    replace(root, fp8(tensors, "weight_scale", original=True))
    found = lent(daemon.load(str(root), "transformer", layout=SOURCE))
    fused = [f"layers.0.attention.to_{part}" for part in "qkv"]
    for layer in fused:
        assert same(found[f"{layer}.comfy_quant"], MARKER)
        assert found[f"{layer}.weight_scale"] == np.float32(2.0**-7)
        expected = (tensors[f"{layer}.weight"].astype(np.float32) * 128).astype(FP8)
        assert same(found[f"{layer}.weight"], expected)


def test_nvfp4_of_comfyui_is_one_refusal_and_a_packed_norm_is_named(daemon, transformer):
    root, tensors = transformer

    def pack(layer: str, shape: tuple[int, ...]) -> Tensors:
        scales = any_bits(2, (*shape[:-1], shape[-1] // 16), FP8)
        return {
            f"{layer}.weight": any_bits(1, (*shape[:-1], shape[-1] // 2), np.dtype(np.uint8)),
            f"{layer}.weight_scale": scales,
            f"{layer}.weight_scale_2": np.array(0.5, np.float32),
        }

    written: Tensors = {}
    for name, values in tensors.items():
        layer = name.removesuffix(".weight")
        is_packed = values.ndim == 2 and name.startswith("layers.") and layer != name
        written |= pack(layer, values.shape) if is_packed else {name: values}
    replace(root, written)
    said = refused(daemon, root, "transformer")
    assert "NVFP4" in said and len(said) < 200, said
    check(lent(daemon.load(str(root), "transformer", layout=SOURCE)), written)
    norm = "cap_embedder.0"
    spoilt = {name: values for name, values in written.items() if name != f"{norm}.weight"}
    replace(root, spoilt | pack(norm, tensors[f"{norm}.weight"].shape))
    (report,) = daemon.audit(str(root), "transformer").reports
    assert [mismatch.name for mismatch in report.wrong_shape_sample] == [f"{norm}.weight"]


@pytest.mark.parametrize("entries", ["matching", "elsewhere", "silent"])
def test_mixed_bits_are_read_from_entries_or_from_shapes(daemon, tmp_path, entries):
    """mlx-lm's own loader does so; entries that name no layer are told."""
    tensors, expected, listed = {}, {}, {}
    for name, values in qwen3().items():
        layer = name.removesuffix(".weight")
        if values.ndim != 2:
            tensors[name] = expected[name] = values
            continue
        is_special = "v_proj" in layer or "down_proj" in layer
        scheme = Scheme("affine", 6 if is_special else 4, 32)
        parts = quantise(values, scheme)
        tensors |= packed(layer, parts, scheme)
        expected[name] = numpy(mx.dequantize(*map(array, parts), **scheme.keywords))
        if is_special and entries != "silent":
            listed[layer if entries == "matching" else f"language_model.{layer}"] = {"group_size": 32, "bits": 6}
    config = QWEN3 | {"quantization": {"group_size": 32, "bits": 4} | listed}
    folder = generic(tmp_path / "model", tensors, config)
    loaded = daemon.load(str(folder), "model", dequantise=True, dtype=AS_STORED, layout=SOURCE)
    check(lent(loaded), expected)
    remarks = "\n".join(loaded.component.audit.remarks)
    assert ("6-bit" in remarks and "4-bit" in remarks) == (entries != "matching"), remarks
    assert ("language_model" in remarks) == (entries == "elsewhere"), remarks


@pytest.mark.parametrize("stack", [False, True])
def test_a_global_scale_of_nvfp4_is_used(daemon, tmp_path, stack):
    """As mlx-lm's `quantize_model(mode="nvfp4", global_scale=True)` writes it: one number for each matrix."""
    shape = (3, 8, 64) if stack else (1, 8, 64)
    weights = mx.array(normal(1, shape) * 0.02).astype(mx.bfloat16)
    keywords = {"group_size": 16, "bits": 4, "mode": "nvfp4"}
    scales = [mx.max(mx.abs(weight)).astype(mx.float32) for weight in weights]
    pairs = zip(weights, scales, strict=True)
    parts = [mx.quantize(weight, **keywords, global_scale=scale)[:2] for weight, scale in pairs]
    codes, groups = (mx.stack([part[at] for part in parts]) for at in (0, 1))
    plain = [
        mx.dequantize(*part, None, **keywords, global_scale=scale) for part, scale in zip(parts, scales, strict=True)
    ]
    expected, factor = mx.stack(plain), mx.stack(scales)
    if not stack:
        codes, groups, expected, factor = codes[0], groups[0], expected[0], factor[0]
    layer = "experts.up"
    tensors = {
        f"{layer}.weight": numpy(codes), f"{layer}.scales": numpy(groups), f"{layer}.global_scale": numpy(factor),
        "norm.weight": normal(2, (8,)),
    }  # fmt: skip
    config = {"model_type": "nobody_knows", "quantization": keywords | {layer: keywords | {"global_scale": True}}}
    folder = generic(tmp_path / "model", tensors, config)
    check(lent(daemon.load(str(folder), "model")), tensors)
    found = lent(daemon.load(str(folder), "model", dequantise=True))
    check(found, {f"{layer}.weight": numpy(expected), "norm.weight": tensors["norm.weight"]})
    assert np.abs(found[f"{layer}.weight"]).max() < 0.2
    for scheme in (Scheme("affine", 4, 32), Scheme("nvfp4", 4, 16)):
        again = lent(daemon.load(str(folder), "model", quantise=scheme.message(only=[layer])))
        if stack:
            continue
        wanted = packed(layer, quantise(numpy(expected), scheme), scheme)
        check(again, wanted | {"norm.weight": tensors["norm.weight"]})


@pytest.mark.parametrize(
    ("suffix", "values"),
    [
        ("zero_point", np.zeros(8, np.int32)),
        ("g_idx", np.arange(64, dtype=np.int32)),
        ("input_scale", np.ones((), np.float32)),
        ("weight_scale", np.ones(1, np.uint8)),
        ("global_scale", np.ones((), np.float32)),
    ],
)
def test_what_lies_unexplained_beside_a_packed_layer_forbids_computing(daemon, tmp_path, suffix, values):
    tensors = packed("a", quantise(normal(1, (8, 64)), A4), A4) | {f"a.{suffix}": values}
    folder = generic(tmp_path / "model", tensors, mlx_lm({"a": A4}))
    check(lent(daemon.load(str(folder), "model")), tensors)
    for wish in ({"dequantise": True}, {"quantise": Scheme("mxfp8", 8, 32).message()}):
        assert f"a.{suffix}" in refused(daemon, folder, "model", **wish)


def test_quantising_a_model_that_nobody_knows_says_that_it_is_a_guess(daemon, tmp_path):
    """By mlx-lm's rule: linear layers and embeddings whose rows are whole groups."""
    tensors = {
        "embed.weight": normal(1, (8, 64)), "linear.weight": normal(2, (8, 64)), "odd.weight": normal(3, (8, 65)),
        "norm.weight": normal(4, (64,)),
    }  # fmt: skip
    loaded = daemon.load(str(generic(tmp_path / "model", tensors)), "model", quantise=A4.message())
    assert {name.split(".")[0] for name in lent(loaded) if name.endswith(".scales")} == {"embed", "linear"}
    assert any("no family knows" in remark for remark in loaded.component.audit.remarks)


def test_contradicting_declarations_are_refused(daemon, tmp_path):
    tensors = packed("a", quantise(normal(1, (8, 64)), A4), A4)
    config = mlx_lm({"a": A4}) | {"quantization_config": {"group_size": 32, "bits": 8}}
    said = refused(daemon, generic(tmp_path / "model", tensors, config), "model")
    assert "contradict" in said or "put together" in said, json.dumps(said)


@pytest.mark.parametrize(
    ("mode", "beside", "declared", "words"),
    [
        ("affine", {}, {"symmetric": True}, ["`symmetric`"]),
        ("affine", {}, {"zero_point": 8}, ["`zero_point`"]),
        ("affine", {}, {"a": {"group_size": 32, "bits": 4, "global_scale": True}}, ["global scale", "none lies beside"]),
        ("nvfp4", {}, {"global_scale": True}, ["global scale", "none lies beside"]),
        ("nvfp4", {}, {"a": {"mode": "nvfp4", "global_scale": True}}, ["global scale", "none lies beside"]),
        ("nvfp4", {"a.global_scale": np.full((), 2, np.float32)}, {"global_scale": False}, ["no global scale", "one lies"]),
    ],
)
def test_what_a_declaration_says_of_a_layer_is_confirmed_or_forbids_computing(
    daemon, tmp_path, mode, beside, declared, words
):
    scheme = A4 if mode == "affine" else Scheme("nvfp4", 4, 16)
    tensors = packed("a", quantise(normal(1, (8, 64)), scheme), scheme) | beside
    config = {"model_type": "nobody_knows", "quantization": scheme.keywords | declared}
    folder = generic(tmp_path / "model", tensors, config)
    check(lent(daemon.load(str(folder), "model")), tensors)
    for wish in ({"dequantise": True}, {"quantise": Scheme("mxfp8", 8, 32).message()}):
        said = refused(daemon, folder, "model", **wish)
        assert all(word in said for word in words), said


@pytest.mark.parametrize("fault", ["no scales", "codes of I32", "codes of U8"])
def test_a_declared_layer_that_lacks_a_part_is_damaged_and_not_plain(daemon, tmp_path, fault):
    tensors = packed("a", quantise(normal(1, (8, 64)), A4), A4)
    if fault == "no scales":
        del tensors["a.scales"]
    else:
        tensors["a.weight"] = tensors["a.weight"].view(np.int32 if fault.endswith("I32") else np.uint8)
    folder = generic(tmp_path / "model", tensors, mlx_lm({"a": A4}))
    for wish in ({}, {"dequantise": True}):
        assert "do not fit their layers" in refused(daemon, folder, "model", **wish)


@pytest.mark.parametrize("dtype", [BF16, np.dtype(np.int8)])
@pytest.mark.parametrize("suffix", ["scale", "scaling", "weight.scale"])
def test_a_matrix_beside_a_scale_of_no_format_is_not_computed_with(daemon, tmp_path, dtype, suffix):
    weight = normal(1, (8, 64), BF16) if dtype == BF16 else any_bits(1, (8, 64), dtype)
    tensors = {"a.weight": weight, f"a.{suffix}": normal(2, (8,)), "norm.weight": normal(3, (64,)), "norm.scale": normal(4, (1,))}
    folder = generic(tmp_path / "model", tensors)
    check(lent(daemon.load(str(folder), "model")), tensors)
    for wish in ({"dequantise": True}, {"quantise": A4.message()}, {"dtype": component_pb2.FLOAT_TYPE_F16}):
        assert f"a.{suffix}" in refused(daemon, folder, "model", **wish), wish


def test_integers_of_a_declared_method_are_no_plain_weights(daemon, tmp_path):
    tensors = {"a.weight": any_bits(1, (8, 64), np.dtype(np.uint8)), "norm.weight": normal(3, (64,))}
    config = {"model_type": "nobody_knows", "quantization_config": {"quant_method": "new_method", "bits": 4}}
    folder = generic(tmp_path / "model", tensors, config)
    check(lent(daemon.load(str(folder), "model")), tensors)
    assert "new_method" in refused(daemon, folder, "model", dequantise=True)


def test_a_head_that_the_config_ties_is_named_when_it_is_left_out(daemon, tmp_path):
    tensors = qwen3() | {"lm_head.weight": normal(99, (96, 256), BF16)}
    loaded = daemon.load(str(generic(tmp_path / "model", tensors, QWEN3)), "model")
    assert "lm_head.weight" not in lent(loaded)
    assert any("`lm_head.weight`" in remark and "left out" in remark for remark in loaded.component.audit.remarks)
    source = daemon.load(str(tmp_path / "model"), "model", layout=SOURCE)
    assert "lm_head.weight" in lent(source)


def in_fp8(folder: Path, scale, settings: dict, suffix: str = "weight_scale") -> Tensors:
    """A model with all its projections in FP8; `scale` makes the scales of so many rows and columns."""
    tensors: Tensors = {}
    for name, values in qwen3().items():
        tensors[name] = values
        if name.endswith("_proj.weight"):
            tensors[name] = (values.astype(np.float32) * 64).astype(FP8)
            tensors[f"{name.removesuffix('.weight')}.{suffix}"] = scale(*values.shape)
    generic(folder, tensors, QWEN3 | ({"quantization_config": settings} if settings else {}))
    return tensors


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"weight_block_size": [192, 192]}, ["`weight_block_size`", "[192,192]"]),
        ({"weight_block_size": [1, 128]}, ["`weight_block_size`", "[1,128]"]),
        ({"transform_config": {"config_groups": {"R1": {"type": "hadamard"}}}}, ["`transform_config`", "rotated"]),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, ["`sparsity_config`", "without their zeros"]),
        ({"weight_block_size": [128, 128], "transform_config": {}, "sparsity_config": {"format": "dense"}}, []),
    ],
)
def test_a_setting_beside_the_method_is_followed_or_forbids_computing(daemon, tmp_path, settings, words):
    """Of blocks of 192 there are as many as of blocks of 128, in these matrices."""

    def blocks(rows: int, columns: int) -> np.ndarray:
        return np.full((-(-rows // 128), -(-columns // 128)), 2.0**-6, np.float32)

    said = {"quant_method": "fp8", "activation_scheme": "dynamic"} | settings
    tensors = in_fp8(tmp_path / "model", blocks, said, "weight_scale_inv")
    name = "model.layers.0.mlp.up_proj.weight"
    if not words:
        found = lent(daemon.load(str(tmp_path / "model"), "model", dtype=component_pb2.FLOAT_TYPE_F32))
        assert same(found[name], tensors[name].astype(np.float32) * np.float32(2.0**-6))
        return
    for wish in ({}, {"dtype": ALL_BF16}, {"dequantise": True}, {"quantise": A4.message()}):
        message = refused(daemon, tmp_path / "model", "model", **wish)
        assert all(word in message for word in words), message
    check(lent(daemon.load(str(tmp_path / "model"), "model", layout=SOURCE)), tensors)


def test_scales_in_one_row_of_a_square_are_taken_for_neither_rows_nor_columns(daemon, tmp_path):
    tensors = in_fp8(tmp_path / "row", lambda rows, _: np.full((1, rows), 2.0**-6, np.float32), {})
    said = refused(daemon, tmp_path / "row", "model")
    assert "_proj.weight_scale` of [1, 256] may be those of the columns" in said, said
    check(lent(daemon.load(str(tmp_path / "row"), "model", layout=SOURCE)), tensors)
    # As compressed-tensors and others write them they are those of the rows.
    settings = {"quant_method": "compressed-tensors", "format": "float-quantized", "transform_config": {}}
    rows_scale = lambda rows, _: np.exp2(-normal(7, (rows, 1)).round() - 6).astype(np.float32)  # noqa: E731
    tensors = in_fp8(tmp_path / "column", rows_scale, settings)
    found = lent(daemon.load(str(tmp_path / "column"), "model", dtype=component_pb2.FLOAT_TYPE_F32))
    name = "model.layers.0.mlp.up_proj.weight"
    assert same(found[name], tensors[name].astype(np.float32) * tensors[f"{name}_scale"])


@pytest.mark.parametrize("suffix", ["weight_scale", "weight_scale_2", "pre_quant_scale", "scale"])
def test_a_fused_matrix_beside_a_scale_of_no_format_is_not_computed_with(daemon, transformer, suffix):
    root, tensors = transformer
    original = transformer_to_original(tensors)
    rows = original["layers.0.attention.qkv.weight"].shape[0]
    original[f"layers.0.attention.qkv.{suffix}"] = normal(1, (rows, 1))
    replace(root, original)
    for wish in ({"dtype": ALL_BF16}, {"quantise": A4.message()}):
        said = refused(daemon, root, "transformer", **wish)
        assert f"qkv.{suffix}" in said and "layers.0.attention.to_" in said, said
    # What is not computed is lent, and nothing is hidden.
    found = lent(daemon.load(str(root), "transformer", layout=SOURCE))
    assert found.keys() == tensors.keys() | {f"layers.0.attention.qkv.{suffix}"}


def test_an_empty_quantisation_says_nothing(daemon, tmp_path):
    for key in ("quantization", "quantization_config"):
        loaded = daemon.load(str(generic(tmp_path / key, qwen3(), QWEN3 | {key: {}})), "model")
        assert not loaded.component.audit.remarks, loaded.component.audit.remarks


@pytest.mark.parametrize("part", ["weight", "weight_scale"])
def test_an_overlay_with_half_a_quantised_layer_is_refused(daemon, transformer, tmp_path, part):
    """Codes of one file times scales of another are no weights."""
    root, tensors = transformer
    replace(root, fp8(tensors, "weight_scale", original=False))
    layer = "layers.0.feed_forward.w1"
    codes = (tensors[f"{layer}.weight"].astype(np.float32) * 64).astype(FP8)
    whole = {f"{layer}.weight": codes, f"{layer}.weight_scale": np.array(2.0**-6, np.float32)}
    overlay = {"overlay": model_pb2.ModelSelector(spec=str(save({f"{layer}.{part}": whole[f"{layer}.{part}"]}, tmp_path / "part.safetensors")))}
    said = refused(daemon, root, "transformer", **overlay)
    assert f"{layer}.{part}" in said and "not all of its layer" in said, said
    # Under another spelling, too, the whole layer takes the place of the model's.
    for name, own in {
        "same": whole,
        "early": {f"{layer}.weight": codes, f"{layer}.scale_weight": whole[f"{layer}.weight_scale"]},
    }.items():
        overlay = {"overlay": model_pb2.ModelSelector(spec=str(save(own, tmp_path / f"{name}.safetensors")))}
        found = lent(daemon.load(str(root), "transformer", dtype=component_pb2.FLOAT_TYPE_F32, **overlay))
        assert same(found[f"{layer}.weight"], codes.astype(np.float32) * np.float32(2.0**-6)), name


@pytest.mark.parametrize("suffix", ["_scale_inv", "_scale", ".scale", "_weight_scale"])
def test_a_stack_in_fp8_beside_its_scale_is_no_plain_cast(daemon, tmp_path, suffix):
    """Experts of transformers 5 are one tensor without `.weight` in its name."""
    name = "model.layers.0.mlp.experts.gate_up_proj"
    stack = {name: (normal(1, (4, 64, 64)) * 64).astype(FP8), "model.norm.weight": normal(2, (64,))}
    tensors = stack | {f"{name}{suffix}": np.full((4, 1, 1), 2.0**-6, np.float32)}
    folder = generic(tmp_path / "scaled", tensors)
    check(lent(daemon.load(str(folder), "model")), tensors)
    for wish in ({"dtype": ALL_BF16}, {"dequantise": True}):
        assert f"`{name}{suffix}` beside it scales it" in refused(daemon, folder, "model", **wish)
    found = lent(daemon.load(str(generic(tmp_path / "cast", stack)), "model", dtype=ALL_BF16))
    assert same(found[name], stack[name].astype(np.float32).astype(BF16))


def test_a_base_gives_the_kind_of_weights_without_a_config(daemon, tmp_path):
    tensors = qwen3()
    base = generic(tmp_path / "base", tensors, QWEN3)
    (tmp_path / "folder").mkdir()
    file = save(tensors, tmp_path / "file.safetensors")
    for path in (file, save(tensors, tmp_path / "folder/model.safetensors").parent):
        loaded = daemon.load(str(path), "model", base=model_pb2.ModelSelector(spec=str(base)))
        assert (loaded.component.family, loaded.component.audit.matched) == ("causal-lm", len(tensors))
        check(lent(loaded), tensors)
    # What does not fit the base is named, and not lent.
    other = generic(tmp_path / "other", tensors, QWEN3 | {"num_hidden_layers": 2})
    said = refused(daemon, file, "model", base=model_pb2.ModelSelector(spec=str(other)))
    assert "does not match its catalogue: 13 of 24 tensors match, 11 missing" in said, said


@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_a_fused_layer_of_a_foreign_method_stands_for_its_parts(daemon, transformer, method):
    """Its codes cannot be taken apart, and that is no damage."""
    root, tensors = transformer
    packed_in: Tensors = {}
    for name, values in transformer_to_original(tensors).items():
        layer = name.removesuffix(".weight")
        is_packed = values.ndim == 2 and name.startswith("layers.") and layer != name
        packed_in |= FOREIGN[method](layer, *values.shape) if is_packed else {name: values}
    replace(root, packed_in)
    config = root / "transformer/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": {"quant_method": method}}))
    (report,) = daemon.audit(str(root), "transformer").reports
    assert report.clean and not report.missing and not report.extra, report
    assert f"`{method}`" in refused(daemon, root, "transformer")
    found = lent(daemon.load(str(root), "transformer", layout=SOURCE))
    parts = {name for name in packed_in if "layers.0.attention.qkv" in name}
    assert parts <= found.keys() and all(same(found[name], packed_in[name]) for name in parts)

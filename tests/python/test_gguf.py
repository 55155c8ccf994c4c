"""GGUF files through the daemon, judged by the Python package `gguf`, by MLX's own reader of GGUF files, and by what
llama.cpp's converter does to names and weights."""

import subprocess
from pathlib import Path

import gguf
import grpc
import ml_dtypes
import mlx.core as mx
import numpy as np
import pytest
from checkpoints import write_hub_cache
from daemon import DEADLINE, PROGRAM, Daemon, Loaded, error_detail
from derive_inputs import normal, save
from derive_judge import BF16, F16, F32, WISHES, Scheme, packed, quantise
from gguf import GGMLQuantizationType as Type
from ggufs import CONVERTED, EXACT, REFUSED, Blocks, floats, triplet, write
from layouts import Tensors, transformer_to_original
from lent import CHECKPOINT, COMPUTED, check, lent, numpy
from weights.v1 import component_pb2, error_pb2, model_pb2, weights_service_pb2

SOURCE, MLX = component_pb2.LAYOUT_SOURCE, component_pb2.LAYOUT_MLX


def check_floats(found: np.ndarray, expected: np.ndarray, name: str) -> None:
    """Every bit, but for the payloads of NaNs, which no arithmetic promises."""
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape), name
    with np.errstate(all="ignore"):
        nan = np.isnan(expected.astype(np.float32))
        assert np.array_equal(np.isnan(found.astype(np.float32)), nan), name
    bits = f"u{found.itemsize}"
    differ = np.flatnonzero((found.view(bits) != expected.view(bits)) & ~nan)
    assert differ.size == 0, f"{name}: {differ.size} differ, first at {differ[0]}"


def refused(daemon: Daemon, spec: Path, component: str = "model", **options) -> tuple[str, error_pb2.ErrorDetail]:
    with pytest.raises(grpc.RpcError) as raised:
        daemon.load(str(spec), component, **options)
    detail = error_detail(raised.value)
    assert detail.hint
    return raised.value.details(), detail


@pytest.mark.parametrize("kind", CONVERTED, ids=lambda kind: kind.name)
def test_every_type_is_dequantised_bit_for_bit(daemon, tmp_path, kind):
    """Random bytes are blocks with scales of every size, infinite ones and NaNs among them."""
    tensors = {
        "random.weight": Blocks.random(kind, 1, 700, 512),
        "sane.weight": Blocks.sane(kind, 2, 33, 1024),
        "zeros.weight": Blocks(kind, np.zeros_like(Blocks.random(kind, 1, 2, 512).stored)),
        "ones.weight": Blocks(kind, np.full_like(Blocks.random(kind, 1, 2, 512).stored, 0xFF)),
        "cube": Blocks.random(kind, 3, 3, 5, 256),
        "vector": Blocks.random(kind, 4, 512),
    }
    path = write(tmp_path / "blocks.gguf", tensors)
    loaded = daemon.load(str(path), "model")
    found = lent(loaded)
    assert found.keys() == tensors.keys() and all(tensor.operation == COMPUTED for tensor in loaded.tensors)
    for name, blocks in tensors.items():
        check_floats(found[name], blocks.floats, name)
    for dtype in (F16, BF16):
        found = lent(daemon.load(str(path), "model", dtype=WISHES[dtype]))
        for name, blocks in tensors.items():
            with np.errstate(all="ignore"):
                check_floats(found[name], blocks.floats.astype(dtype), name)


def test_the_types_that_ggml_only_computes_with_are_read_by_its_structs(daemon, tmp_path):
    """A float, codes, and sums that nobody needs: `gguf` has no arithmetic for them, and another size for one."""
    codes = np.random.default_rng(5).integers(-128, 128, (6, 256), np.int8)
    scales = np.random.default_rng(6).standard_normal((6, 1)).astype(np.float32)
    q8_k = np.concatenate([scales.view(np.uint8), codes.view(np.uint8), np.zeros((6, 32), np.uint8)], axis=1)
    path = write(tmp_path / "k.gguf", {"k.weight": Blocks(Type.Q8_K, q8_k)})
    assert np.array_equal(lent(daemon.load(str(path), "model"))["k.weight"], codes.astype(np.float32) * scales)


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.name)
def test_types_with_code_books_are_named_and_refused(daemon, tmp_path, kind):
    path = write(tmp_path / "iq.gguf", {"a.weight": Blocks.random(kind, 1, 4, 512), "b.weight": normal(1, (2, 2))})
    message, detail = refused(daemon, path)
    assert kind.name in message and "a.weight" in message, message
    assert detail.reason == error_pb2.ERROR_REASON_CANNOT_CONVERT
    (report,) = daemon.audit(str(path)).reports
    assert {total.dtype for total in report.dtypes} == {kind.name, "F32"}


def test_plain_tensors_are_lent_from_the_file_itself(daemon, tmp_path):
    tensors = {
        "f32": normal(1, (3, 5)),
        "f16": normal(2, (7, 3), F16),
        "bf16": normal(3, (4, 4), BF16),
        "vector": normal(4, (9,), BF16),
        "i8": np.arange(6, dtype=np.int8).reshape(2, 3),
        "i16": np.arange(6, dtype=np.int16),
        "i32": np.arange(6, dtype=np.int32),
        "i64": np.arange(6, dtype=np.int64),
        "f64": normal(5, (2, 2)).astype(np.float64),
    }
    path = write(tmp_path / "plain.gguf", tensors)
    loaded = daemon.load(str(path), "model")
    check(lent(loaded), floats(tensors))
    computed = {tensor.name for tensor in loaded.tensors if tensor.operation == COMPUTED}
    assert computed == {"vector"}, "ggml computes with vectors as F32"
    assert {tensor.offset % 32 for tensor in loaded.tensors if tensor.name not in computed} == {0}
    assert loaded.component.segments[0].kind == CHECKPOINT and loaded.component.segments[0].path == str(path)


def test_quantised_and_plain_as_it_is_asked(daemon, tmp_path):
    """From blocks on into any scheme of MLX, judged by MLX from the same floats."""
    scheme = Scheme("affine", 4, 64)
    tensors = {"a.weight": Blocks.sane(Type.Q6_K, 1, 40, 512), "b.weight": Blocks.sane(Type.Q8_0, 2, 40, 512)}
    path = write(tmp_path / "m.gguf", tensors)
    found = lent(daemon.load(str(path), "model", quantise=scheme.message(), dtype=WISHES[BF16]))
    expected: Tensors = {}
    for name, blocks in tensors.items():
        layer = name.removesuffix(".weight")
        expected |= packed(layer, quantise(blocks.floats.astype(BF16), scheme), scheme)
    check(found, expected)
    check(lent(daemon.load(str(path), "model", dequantise=True)), floats(tensors))
    exact = Scheme("affine", 8, 32)
    found = lent(daemon.load(str(path), "model", quantise=exact.message(only=["b"])))
    check(found, packed("b", triplet(tensors["b.weight"]), exact) | {"a.weight": tensors["a.weight"].floats})


def test_shapes_of_comfyui_and_alignments_of_the_file(daemon, tmp_path):
    kernel = normal(1, (16, 4, 3, 3), F16)
    key = "comfy.gguf.orig_shape.kernel"
    metadata = {key: [16, 4, 3, 3], "general.alignment": 256}
    path = tmp_path / "shaped.gguf"
    writer = gguf.GGUFWriter(path, "lumina2")
    writer.add_custom_alignment(256)
    writer.add_array(key, metadata[key])
    writer.add_tensor("kernel", kernel.reshape(64, 9))
    writer.add_tensor("b", normal(2, (3,)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    loaded = daemon.load(str(path), "model")
    check(lent(loaded), {"kernel": kernel, "b": normal(2, (3,))})
    assert {tensor.offset % 256 for tensor in loaded.tensors} == {0}


# Names and weights as llama.cpp's convert_hf_to_gguf.py makes them, written down here anew.

SIZES = {"hidden": 64, "inner": 128, "heads": 4, "keys": 2, "head": 16, "words": 96, "layers": 2}
FOUR_NORMS = {
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
}  # fmt: skip
# Has norms of heads, has four norms a block, biases of attention's inputs.
ARCHITECTURES = {
    "llama": (False, False, False), "qwen2": (False, False, True), "qwen3": (True, False, False),
    "gemma": (False, False, False), "gemma2": (False, True, False), "gemma3": (True, True, False),
}  # fmt: skip


def language_model(architecture: str) -> Tensors:
    """A small model under the names of transformers. Its norms are near 0, as Gemma's are."""
    head_norms, four, biases = ARCHITECTURES[architecture]
    hidden, inner, head = SIZES["hidden"], SIZES["inner"], SIZES["head"]
    queries, keys = SIZES["heads"] * head, SIZES["keys"] * head
    matrices = {"model.embed_tokens": (SIZES["words"], hidden)}
    norms = {"model.norm": hidden}
    vectors = {}
    for layer in range(SIZES["layers"]):
        base = f"model.layers.{layer}"
        matrices |= {
            f"{base}.self_attn.q_proj": (queries, hidden), f"{base}.self_attn.k_proj": (keys, hidden),
            f"{base}.self_attn.v_proj": (keys, hidden), f"{base}.self_attn.o_proj": (hidden, queries),
            f"{base}.mlp.gate_proj": (inner, hidden), f"{base}.mlp.up_proj": (inner, hidden),
            f"{base}.mlp.down_proj": (hidden, inner),
        }  # fmt: skip
        for name in ["input_layernorm", *(FOUR_NORMS if four else ["post_attention_layernorm"])]:
            norms[f"{base}.{name}"] = hidden
        if head_norms:
            norms |= {f"{base}.self_attn.q_norm": head, f"{base}.self_attn.k_norm": head}
        if biases:
            widths = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
            vectors |= {f"{base}.self_attn.{name}.bias": width for name, width in widths.items()}
    tensors = {f"{name}.weight": normal(seed, shape) for seed, (name, shape) in enumerate(matrices.items())}
    small = {f"{name}.weight": width for name, width in norms.items()} | vectors
    # Sums with 1 that are exact, as those of the published BF16 norms are.
    tensors |= {name: normal(99 + at, (width,)).astype(BF16).astype(F32) for at, (name, width) in enumerate(small.items())}
    return tensors


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """The halves of each head, row by row."""
    rows = weight.shape[0] // heads
    return weight.reshape(heads, 2, rows // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def to_llama_cpp(architecture: str, tensors: Tensors) -> Tensors:
    four = ARCHITECTURES[architecture][1]
    names = NAMES | (FOUR_NORMS if four else {"post_attention_layernorm": "ffn_norm"})
    out: Tensors = {}
    for name, values in tensors.items():
        if architecture == "llama" and "q_proj" in name:
            values = interleaved(values, SIZES["heads"])
        if architecture == "llama" and "k_proj" in name:
            values = interleaved(values, SIZES["keys"])
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            values = values + np.float32(1)
        parts = name.split(".")
        if parts[1] == "layers":
            suffix = parts[-1]
            out[f"blk.{parts[2]}.{names['.'.join(parts[3:-1])]}.{suffix}"] = values
        else:
            top = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
            out[top.get(name, "output.weight")] = values
    return out


def metadata(architecture: str) -> dict[str, object]:
    values = {
        "block_count": SIZES["layers"], "embedding_length": SIZES["hidden"], "feed_forward_length": SIZES["inner"],
        "attention.head_count": SIZES["heads"], "attention.head_count_kv": SIZES["keys"],
        "attention.key_length": SIZES["head"], "attention.layer_norm_rms_epsilon": 1e-6, "context_length": 512,
        "rope.freq_base": 10000.0,
    }  # fmt: skip
    vocabulary = {"tokenizer.ggml.tokens": [f"word {at}" for at in range(SIZES["words"])]}
    return {f"{architecture}.{key}": value for key, value in values.items()} | vocabulary


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
def test_names_and_weights_of_llama_cpp_come_as_those_of_transformers(daemon, tmp_path, architecture, dtype):
    tensors = language_model(architecture)
    stored = {
        name: values.astype(dtype) if values.ndim == 2 else values
        for name, values in to_llama_cpp(architecture, tensors).items()
    }
    path = write(tmp_path / "model.gguf", stored, architecture, metadata(architecture))
    expected = {name: values.astype(dtype) if values.ndim == 2 else values for name, values in tensors.items()}
    (report,) = daemon.audit(str(path)).reports
    assert report.clean and report.extra == 0 and report.expected == len(tensors), report
    for layout in (MLX, SOURCE):
        loaded = daemon.load(str(path), "model", layout=layout)
        assert loaded.component.family == "causal-lm"
        check(lent(loaded), expected)


@pytest.mark.parametrize("kind", EXACT, ids=lambda kind: kind.name)
@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
def test_layers_that_mlx_can_say_exactly_are_its_own(daemon, tmp_path, kind, architecture):
    tensors = language_model(architecture)
    matrices = [name for name, values in tensors.items() if values.ndim == 2]
    blocks = {name: Blocks.sane(kind, at, *tensors[name].shape) for at, name in enumerate(matrices)}
    meant = tensors | {name: of.floats for name, of in blocks.items()}
    stored = to_llama_cpp(architecture, tensors)
    for name, theirs in to_llama_cpp(architecture, {name: of.stored for name, of in blocks.items()}).items():
        stored[name] = Blocks(kind, theirs)
    path = write(tmp_path / "model.gguf", stored, architecture, metadata(architecture))
    loaded = daemon.load(str(path), "model")
    found, scheme = lent(loaded), Scheme("affine", EXACT[kind], 32)
    expected: Tensors = {}
    for name, values in tensors.items():
        layer = name.removesuffix(".weight")
        expected |= packed(layer, triplet(blocks[name]), scheme) if name in blocks else {name: values}
    check(found, expected)
    for name, of in blocks.items():
        codes, scales, biases = (found[f"{name.removesuffix('.weight')}.{role}"] for role in scheme.roles)
        # In F32, where MLX's sum of product and bias rounds nothing.
        numbers = [mx.array(codes), mx.array(scales).astype(mx.float32), mx.array(biases).astype(mx.float32)]
        assert np.array_equal(numpy(mx.dequantize(*numbers, group_size=32, bits=EXACT[kind])), of.floats), name
    assert any("bit for bit" in remark for remark in loaded.component.audit.remarks), loaded.component.audit
    for options in ({"layout": SOURCE}, {"dequantise": True}):
        check(lent(daemon.load(str(path), "model", **options)), meant)
    # MLX reads such files too, and makes the same layers of them.
    if architecture == "qwen3":
        theirs = mx.load(str(path))
        for role in scheme.roles:
            assert np.array_equal(numpy(theirs[f"blk.0.ffn_up.{role}"]), found[f"model.layers.0.mlp.up_proj.{role}"])


def test_scales_that_no_layer_of_mlx_can_have_are_refused_by_name(daemon, tmp_path):
    tensors = language_model("qwen3")
    stored = to_llama_cpp("qwen3", tensors)
    blocks = Blocks.sane(Type.Q8_0, 1, 64, 128)
    blocks.stored[3, 34:36] = np.array([600], np.float16).view(np.uint8)
    stored["blk.0.ffn_down.weight"] = blocks
    path = write(tmp_path / "model.gguf", stored, "qwen3", metadata("qwen3"))
    message, detail = refused(daemon, path)
    assert "600" in message and "down_proj" in message and "--dequantise" in detail.hint, (message, detail.hint)
    found = lent(daemon.load(str(path), "model", dequantise=True))
    check_floats(found["model.layers.0.mlp.down_proj.weight"], blocks.floats, "down_proj")


@pytest.mark.parametrize("kind", [Type.NVFP4, Type.Q8_0, Type.Q4_K], ids=lambda kind: kind.name)
def test_blocks_beside_a_scale_of_their_own_are_refused_by_name(daemon, tmp_path, kind):
    """llama.cpp multiplies by it what the blocks make. Blocks cannot be lent as they are stored, so nothing is."""
    weight = Blocks.sane(kind, 1, 64, 256)
    path = write(tmp_path / "scaled.gguf", {"a.weight": weight, "a.scale": np.array([0.25], F32), "b": normal(2, (64,))})
    for options in ({}, {"layout": SOURCE}, {"dequantise": True}, {"quantise": Scheme("affine", 4, 32).message()}):
        message, detail = refused(daemon, path, **options)
        assert detail.reason == error_pb2.ERROR_REASON_CANNOT_CONVERT, detail
        assert "a.scale" in message and kind.name in message, message


def test_an_unknown_architecture_keeps_its_names_and_says_so(daemon, tmp_path):
    stored = to_llama_cpp("qwen3", language_model("qwen3"))
    loaded = daemon.load(str(write(tmp_path / "model.gguf", stored, "mamba")), "model")
    assert loaded.component.family == "generic"
    check(lent(loaded), stored)
    assert any("mamba" in remark for remark in loaded.component.audit.remarks), loaded.component.audit.remarks


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("architecture", ["lumina2", ""])
def test_a_transformer_of_z_image_under_its_original_names(
    daemon, tmp_path, family, transformer, prefix, architecture
):
    """As ComfyUI-GGUF and stable-diffusion.cpp write it: linear layers in blocks, fused attention, the rest F32."""
    original = transformer_to_original(transformer)
    kinds = [Type.Q5_0, Type.Q4_0, Type.Q8_0]
    stored: dict[str, np.ndarray | Blocks] = {}
    for at, (name, values) in enumerate(original.items()):
        kind = Type.Q8_0 if "qkv" in name else kinds[at % len(kinds)]
        is_linear = values.ndim == 2 and name.endswith(".weight") and values.shape[1] % 32 == 0
        values = values.reshape(-1) if name.endswith("pad_token") else values.astype(F32)
        stored[prefix + name] = Blocks.sane(kind, at, *values.shape) if is_linear else values
    assert any(isinstance(tensor, Blocks) and "qkv" in name for name, tensor in stored.items())
    path = write(tmp_path / "z_image.gguf", stored, architecture)
    base = model_pb2.ModelSelector(spec=str(family))
    request = weights_service_pb2.AuditRequest(model=model_pb2.ModelSelector(spec=str(path)), base=base)
    (report,) = daemon.weights.Audit(request, timeout=DEADLINE).reports
    assert report.clean and report.component == "transformer", report
    meant = {name.removeprefix(prefix): values for name, values in floats(stored).items()}
    loaded = daemon.load(str(path), "transformer", layout=SOURCE, base=base)
    check(transformer_to_original(lent(loaded)), {
        name: values.reshape(original[name].shape) for name, values in meant.items()
    })  # fmt: skip
    # In layout MLX the rest is BF16, and fused attention in Q8_0 is three quantised layers.
    found = lent(daemon.load(str(path), "transformer", base=base))
    fused = next(name for name, of in stored.items() if isinstance(of, Blocks) and "qkv" in name)
    words, scales, _ = triplet(stored[fused])
    base = fused.removeprefix(prefix).removesuffix("qkv.weight")
    rows = words.shape[0] // 3
    for at, letter in enumerate("qkv"):
        part = slice(at * rows, (at + 1) * rows)
        assert np.array_equal(found[f"{base}to_{letter}.weight"], words[part])
        assert np.array_equal(found[f"{base}to_{letter}.scales"], scales[part])
    assert {values.dtype for values in found.values()} == {np.dtype(np.uint32), F16, BF16}


def quantisations(folder: Path) -> dict[str, Tensors]:
    """One model in two quantisations, one of them in two parts."""
    files = {}
    for kind in (Type.Q4_K, Type.Q8_0):
        files[kind.name] = {f"{at}.weight": Blocks.sane(kind, at, 8, 256) for at in range(4)}
    write(folder / "m-Q4_K_M.gguf", files["Q4_K"])
    for part in range(2):
        names = [f"{at}.weight" for at in (2 * part, 2 * part + 1)]
        write(folder / f"m-Q8_0-0000{part + 1}-of-00002.gguf", {name: files["Q8_0"][name] for name in names})
    return {name: floats(tensors) for name, tensors in files.items()}


def test_of_several_quantisations_one_has_to_be_named(tmp_path):
    expected = quantisations(tmp_path / "folder")
    write_hub_cache(tmp_path / "hub", "org/m-GGUF", tmp_path / "folder", refs=("main",))
    with Daemon(hub_cache=tmp_path / "hub") as daemon:
        for spec in (str(tmp_path / "folder"), "org/m-GGUF"):
            message, detail = refused(daemon, Path(spec) if spec.startswith("/") else spec)
            assert "m-Q4_K_M" in message and "m-Q8_0" in message, message
            assert detail.reason == error_pb2.ERROR_REASON_AMBIGUOUS_WEIGHTS and "--variant" in detail.hint
            for variant, name in (("q4_k_m", "Q4_K"), ("Q8_0", "Q8_0")):
                check(choose(daemon, spec, variant=variant), expected[name])
            check(choose(daemon, spec, patterns=["*Q8_0*"]), expected["Q8_0"])
        (tmp_path / "folder" / "m-Q8_0-00002-of-00002.gguf").unlink()
        with pytest.raises(grpc.RpcError) as raised:
            choose(daemon, str(tmp_path / "folder"), variant="Q8_0")
        assert "m-Q8_0-00002-of-00002.gguf" in raised.value.details()


def choose(daemon: Daemon, spec: str, **choice) -> Tensors:
    request = weights_service_pb2.LoadComponentRequest(
        model=model_pb2.ModelSelector(spec=spec, **choice), component="model", hold=component_pb2.HOLD_NONE
    )
    return lent(Loaded.read(daemon.weights.LoadComponent(request, timeout=DEADLINE)))


def test_safetensors_come_before_gguf(daemon, tmp_path):
    quantisations(tmp_path)
    save({"a": normal(1, (2, 2))}, tmp_path / "model.safetensors")
    check(lent(daemon.load(str(tmp_path), "model")), {"a": normal(1, (2, 2))})
    assert len(choose(daemon, str(tmp_path), variant="Q8_0")) == 4


def test_inspect_shows_types_names_and_what_is_told(tmp_path):
    tensors = language_model("llama")
    stored = to_llama_cpp("llama", tensors)
    stored["blk.0.ffn_up.weight"] = Blocks.sane(Type.Q5_0, 1, 128, 64)
    path = write(tmp_path / "model.gguf", stored, "llama", metadata("llama"))
    shown = subprocess.run(
        [PROGRAM, "inspect", str(path), "model", "--full"], capture_output=True, text=True, check=True
    ).stdout
    row = next(line for line in shown.splitlines() if "model.layers.0.mlp.up_proj.weight" in line)
    assert "Q5_0" in row and "blk.0.ffn_up.weight" in row and "128x64" in row, row
    assert "interleaved" in shown


def test_a_daemon_without_mlx_dequantises(tmp_path):
    """Decoding is not MLX's."""
    tensors = {"a.weight": Blocks.sane(Type.Q4_K, 1, 8, 256)}
    path = write(tmp_path / "m.gguf", tensors)
    with Daemon(environment={"WEIGHTSD_MLX": str(tmp_path / "nowhere")}) as daemon:
        found = lent(daemon.load(str(path), "model", dtype=WISHES[BF16]))
        check_floats(found["a.weight"], tensors["a.weight"].floats.astype(ml_dtypes.bfloat16), "a")

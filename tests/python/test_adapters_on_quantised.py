"""Adapters on weights that others quantised: what FP8 and the blocks of GGUF files mean is changed in F32 as plain weights are,
and rounded, or quantised anew, once. What the layers mean is judged elsewhere (`test_coded.py`, `test_gguf.py`); the daemon
is asked for it here."""

import json
import os
import subprocess

import mlx.core as mx
import numpy as np
import pytest
from adapter_judges import peft
from daemon import PROGRAM
from derive_adapters import ATTENTION, FEED, KINDS, Maker, asked, summed
from derive_inputs import normal, save, small
from derive_judge import BF16, F16, F32, WISHES, Scheme, cast, changed, packed, quantise
from gguf import GGMLQuantizationType as Type
from ggufs import Blocks, write
from language_models import AutoModelForCausalLM, torch
from layouts import Tensors, transformer_to_original
from lent import array, check, lent, numpy
from safetensors.numpy import load_file
from test_coded import rowwise, zimage
from test_gguf import SIZES, interleaved, language_model, metadata, to_llama_cpp
from transformers import Qwen3Config
from weights.v1 import component_pb2, model_pb2

SOURCE = component_pb2.LAYOUT_SOURCE
PLAIN = component_pb2.MERGED_LAYERS_PLAIN
Q8 = Scheme("affine", 8, 32)


def fp8(folder, transformer):
    zimage(folder, rowwise)
    return folder.resolve(), {}


def fp8_in_blocks(folder, transformer):
    """DeepSeek's: one scale for 128 x 128 elements."""

    def blocked(layer: str, values: np.ndarray) -> Tensors:
        rows, columns = (-(-size // 128) for size in values.shape)
        scales = (np.abs(normal(3, (rows, columns))) / 4 + 0.01).astype(F32)
        codes = rowwise(layer, values)[f"{layer}.weight"]
        return {f"{layer}.weight": codes, f"{layer}.weight_scale_inv": scales}

    zimage(folder, blocked)
    return folder.resolve(), {}


def gguf(kind: Type):
    def make(folder, transformer):
        stored: dict[str, np.ndarray | Blocks] = {}
        for at, (name, values) in enumerate(transformer_to_original(transformer).items()):
            values = values.reshape(-1) if name.endswith("pad_token") else values.astype(F32)
            is_linear = values.ndim == 2 and values.shape[1] % 64 == 0 and name.startswith("layers.")
            stored[name] = Blocks.sane(kind, at, *values.shape) if is_linear else values
        base = small(folder / "base")
        return write(folder / "z_image.gguf", stored), {"base": model_pb2.ModelSelector(spec=str(base))}

    return make


BASES = {"fp8": fp8, "fp8_in_blocks": fp8_in_blocks, "q8_0": gguf(Type.Q8_0), "q5_1": gguf(Type.Q5_1), "mxfp4": gguf(Type.MXFP4)}


@pytest.fixture(scope="module", params=BASES)
def base(request, daemon, transformer, tmp_path_factory):
    """A model, what it is asked with, and what its transformer means, in F32."""
    spec, options = BASES[request.param](tmp_path_factory.mktemp(request.param) / "model", transformer)
    plain = lent(daemon.load(str(spec), "transformer", layout=SOURCE, dequantise=True, dtype=WISHES[F32], **options))
    assert {values.dtype for values in plain.values()} == {F32} and plain.keys() == transformer.keys()
    return request.param, spec, options, plain


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_changes_what_the_layers_mean(daemon, base, transformer, tmp_path, kind):
    _, spec, options, plain = base
    adapter = getattr(Maker(transformer), kind)()
    path = adapter.write(tmp_path / kind)
    deltas = summed([(adapter, 0.7)])
    for dtype in (F32, BF16):
        wish = {"layout": SOURCE, "dequantise": True, "dtype": WISHES[dtype]} | options
        found = lent(daemon.load(str(spec), "transformer", adapters=asked([(path, 0.7)]), **wish))
        expected = {name: cast(values, dtype) for name, values in plain.items()}
        for layer, several in deltas.items():
            expected[f"{layer}.weight"] = cast(changed(plain[f"{layer}.weight"], several), dtype)
        check(found, expected)


def test_dora_rescales_what_the_layers_mean(daemon, base, tmp_path):
    """By PEFT's formula, in MLX."""
    _, spec, options, plain = base
    layers = [f"{ATTENTION}.to_q", f"{FEED}.w2"]
    judged = peft(tmp_path / "dora", plain, layers, is_exact=False)
    wish = {"layout": SOURCE, "dequantise": True, "dtype": WISHES[F32]} | options
    found = lent(daemon.load(str(spec), "transformer", adapters=asked([(judged.folder, None)]), **wish))
    adapter = load_file(judged.folder / "adapter_model.safetensors")
    for layer in layers:
        of = {key.removeprefix(f"base_model.model.{layer}."): array(values) for key, values in adapter.items() if layer in key}
        weight = array(plain[f"{layer}.weight"])
        weight = weight + of["lora_B.weight"] @ of["lora_A.weight"] * mx.array(np.float32(8 / 4))
        lengths = mx.sqrt(mx.sum(mx.square(weight), axis=1, keepdims=True))
        expected = numpy(weight * (of["lora_magnitude_vector"][:, None] / lengths))
        check({layer: found[f"{layer}.weight"]}, {layer: expected})
        assert np.allclose(expected, judged.weights[f"{layer}.weight"], rtol=1e-5, atol=1e-5)


def test_layers_that_stay_quantised_are_quantised_anew(daemon, base, transformer, tmp_path):
    """In layout MLX the blocks of Q8_0 are layers of MLX, those with changes too, unless plain ones are asked for."""
    kind, spec, options, plain = base
    adapter = Maker(transformer).fused()
    request = {"adapters": asked([(adapter.write(tmp_path / "fused"), None)])} | options
    deltas = summed([(adapter, 1.0)])
    for merged in ({}, {"merged_layers": PLAIN}):
        found = lent(daemon.load(str(spec), "transformer", **(request | merged)))
        for layer, several in deltas.items():
            expected = changed(plain[f"{layer}.weight"], several)
            if kind == "q8_0" and not merged:
                tensors = packed(layer, quantise(cast(expected, F16), Q8), Q8)
            else:
                tensors = {f"{layer}.weight": cast(expected, BF16)}
            check({name: found[name] for name in tensors}, tensors)


def test_a_language_model_in_a_gguf_takes_adapters_under_the_names_of_transformers(daemon, tmp_path):
    """Rows of llama's queries are put in order before they are changed."""
    tensors = language_model("llama")
    stored: dict[str, np.ndarray | Blocks] = dict(to_llama_cpp("llama", tensors))
    for at, name in enumerate(list(stored)):
        if stored[name].ndim == 2:
            stored[name] = Blocks.sane(Type.Q8_0, at, *stored[name].shape)
    path = write(tmp_path / "model.gguf", stored, "llama", metadata("llama"))
    wish = {"dequantise": True, "dtype": WISHES[F32]}
    plain = lent(daemon.load(str(path), "model", **wish))
    layer = "model.layers.1.self_attn.q_proj"
    rows = stored["blk.1.attn_q.weight"].floats
    assert np.array_equal(interleaved(plain[f"{layer}.weight"], 4), rows)
    down, up = normal(1, (3, 64)), normal(2, (64, 3))
    key = f"base_model.model.{layer}.lora"
    save({f"{key}_A.weight": down, f"{key}_B.weight": up}, tmp_path / "style.safetensors")
    found = lent(daemon.load(str(path), "model", adapters=asked([(tmp_path / "style.safetensors", 1.0)]), **wish))
    expected = numpy(array(plain[f"{layer}.weight"]) + array(up) @ array(down))
    check(found, plain | {f"{layer}.weight": expected})


def test_a_gguf_becomes_a_folder_that_transformers_opens_with_an_adapter_in_it(daemon, tmp_path):
    """`weightsd path`, opened by transformers, with the configs of the model that it was made of; the adapter is in the
    weights."""
    tensors = language_model("qwen3")
    sizes = {
        "hidden_size": SIZES["hidden"], "intermediate_size": SIZES["inner"], "num_attention_heads": SIZES["heads"],
        "num_key_value_heads": SIZES["keys"], "head_dim": SIZES["head"], "vocab_size": SIZES["words"],
        "num_hidden_layers": SIZES["layers"], "tie_word_embeddings": True, "architectures": ["Qwen3ForCausalLM"],
    }  # fmt: skip
    Qwen3Config(**sizes).save_pretrained(str(tmp_path / "base"))
    save(tensors, tmp_path / "base/model.safetensors")
    stored: dict[str, np.ndarray | Blocks] = dict(to_llama_cpp("qwen3", tensors))
    for at, name in enumerate(list(stored)):
        if stored[name].ndim == 2:
            stored[name] = Blocks.sane(Type.Q4_0 if at % 2 else Type.Q8_0, at, *stored[name].shape)
    path = write(tmp_path / "model.gguf", stored, "qwen3", metadata("qwen3"))
    layer = "model.layers.0.mlp.down_proj"
    down, up = normal(1, (3, 128)), normal(2, (64, 3))
    save({f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}, tmp_path / "style.safetensors")
    expected = lent(daemon.load(str(path), "model", dequantise=True, dtype=WISHES[F32]))
    changed_weight = numpy(array(expected[f"{layer}.weight"]) + array(up) @ array(down))
    added = expected | {f"{layer}.weight": changed_weight}
    for wishes, meant in ([], expected), (["--adapter", tmp_path / "style.safetensors"], added):
        command = [PROGRAM, "--socket", daemon.socket, "path", path, "--base", tmp_path / "base", "--dtype", "f32"]
        command += ["--root", tmp_path / "root", *wishes]
        environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1"}
        made = subprocess.run([*command, "--json"], capture_output=True, text=True, env=environment)
        assert made.returncode == 0, made.stderr
        folder = json.loads(made.stdout)["path"]
        opened = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
        opened.pop("lm_head.weight", None) if "lm_head.weight" not in meant else None
        check({name: values.numpy() for name, values in opened.items()}, meant)

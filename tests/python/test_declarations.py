"""What `config.json` says of MLX's quantised layers, where neither a family nor the shapes of the tensors can check it."""

import json
import math
from pathlib import Path

import grpc
import mlx.core as mx
import numpy as np
import pytest
from lent import lent
from weights.v1 import component_pb2

LAYER = "model.layers.0.mlp.down_proj"
OTHER = "model.layers.0.mlp.up_proj"
# Codes and scales of both have the same shapes.
DEFAULT, SPECIAL = {"group_size": 64, "bits": 4}, {"group_size": 32, "bits": 8}


def model(folder: Path, entries: dict) -> dict[str, np.ndarray]:
    """A model of an unknown type with two layers, one of them in `SPECIAL`; returns what MLX makes of them."""
    tensors, plain = {}, {}
    for seed, (layer, scheme) in enumerate(((LAYER, SPECIAL), (OTHER, DEFAULT))):
        weight = mx.random.normal((64, 128), key=mx.random.key(seed))
        codes, scales, biases = mx.quantize(weight, **scheme)
        tensors |= {f"{layer}.weight": codes, f"{layer}.scales": scales, f"{layer}.biases": biases}
        plain[f"{layer}.weight"] = np.array(mx.dequantize(codes, scales, biases, **scheme))
    folder.mkdir()
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)
    # Python writes `Infinity`, which JSON does not have; configs of state-space models have it here.
    config = {"model_type": "nobody-knows-it", "time_step_limit": [0.0, math.inf], "quantization": DEFAULT | entries}
    (folder / "config.json").write_text(json.dumps(config))
    return plain


def dequantised(daemon, folder: Path) -> dict[str, np.ndarray]:
    return lent(daemon.load(str(folder), "model", dequantise=True, layout=component_pb2.LAYOUT_SOURCE))


def test_an_entry_gives_the_bits_of_its_layer(daemon, tmp_path):
    plain = model(tmp_path / "model", {LAYER: SPECIAL, OTHER: None, "noted": None})
    found = dequantised(daemon, tmp_path / "model")
    assert found.keys() == plain.keys()
    assert all(np.array_equal(found[name], plain[name]) for name in plain)


@pytest.mark.parametrize(
    "entry", [f"language_model.{LAYER}", LAYER.removeprefix("model."), f"{LAYER}.weight", f"language_model.{LAYER}.weight"]
)
def test_an_entry_under_another_spelling_is_not_passed_over(daemon, tmp_path, entry):
    model(tmp_path / "model", {entry: SPECIAL})
    with pytest.raises(grpc.RpcError) as refused:
        dequantised(daemon, tmp_path / "model")
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    told = str(refused.value.details()) + str(daemon.audit(str(tmp_path / "model")))
    assert all(word in told for word in (entry, "affine 8-bit, groups of 32", "affine 4-bit, groups of 64")), told


def test_an_entry_for_a_plain_layer_is_no_stray(daemon, tmp_path):
    model(tmp_path / "model", {LAYER: SPECIAL, "model.norm": False})
    told = str(daemon.audit(str(tmp_path / "model")))
    assert "name no quantised layer" not in told, told


def test_a_factor_that_only_the_config_has_is_no_yes_or_no(daemon, tmp_path):
    model(tmp_path / "model", {LAYER: SPECIAL, "global_scale": 0.5})
    with pytest.raises(grpc.RpcError) as refused:
        dequantised(daemon, tmp_path / "model")
    assert "global_scale" in refused.value.details()

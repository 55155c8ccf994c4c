"""Folders as trainers leave them, given as an adapter of a language model: which file is meant, and what it holds."""

import json
from pathlib import Path

import grpc
import numpy as np
import pytest
from derive_adapters import asked
from derive_inputs import normal, save
from derive_judge import Delta, changed
from layouts import Tensors
from lent import array, check, lent
from weights.v1 import component_pb2, model_pb2

OPTIONS = {"layout": component_pb2.LAYOUT_SOURCE, "dtype": component_pb2.FLOAT_TYPE_F32}
LAYER = "model.layers.0.self_attn.q_proj"
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 64, "intermediate_size": 128,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "num_hidden_layers": 1, "vocab_size": 96,
    "rms_norm_eps": 1e-6, "rope_theta": 1000000, "tie_word_embeddings": False, "max_position_embeddings": 512,
}  # fmt: skip


@pytest.fixture(scope="module")
def weights() -> Tensors:
    block = "model.layers.0"
    shapes = {
        "model.embed_tokens": (96, 64), "model.norm": (64,), "lm_head": (96, 64), f"{block}.self_attn.q_proj": (128, 64),
        f"{block}.self_attn.k_proj": (64, 64), f"{block}.self_attn.v_proj": (64, 64), f"{block}.self_attn.q_norm": (32,),
        f"{block}.self_attn.o_proj": (64, 128), f"{block}.self_attn.k_norm": (32,), f"{block}.mlp.gate_proj": (128, 64),
        f"{block}.mlp.up_proj": (128, 64), f"{block}.mlp.down_proj": (64, 128), f"{block}.input_layernorm": (64,),
        f"{block}.post_attention_layernorm": (64,),
    }  # fmt: skip
    return {f"{name}.weight": normal(700 + i, shape) for i, (name, shape) in enumerate(shapes.items())}


@pytest.fixture(scope="module")
def language(weights, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("qwen3")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return save(weights, folder / "model.safetensors").parent


def pair(seed: int, kind: str) -> tuple[Tensors, Delta]:
    down, up = normal(seed, (4, 64)), normal(seed + 1, (128, 4))
    keys, values = {
        "mlx": ((f"{LAYER}.lora_a", f"{LAYER}.lora_b"), (down.T.copy(), up.T.copy())),
        "peft": ([f"base_model.model.{LAYER}.lora_{side}.weight" for side in "AB"], (down, up)),
        "kohya": ([f"lora_te_{LAYER.replace('.', '_')}.lora_{side}.weight" for side in ("down", "up")], (down, up)),
        "diffusers": ([f"text_encoder.{LAYER}.lora_{side}.weight" for side in "AB"], (down, up)),
    }[kind]
    return dict(zip(keys, values, strict=True)), Delta(array(up) @ array(down), 1.0, 3.0 if kind == "mlx" else 1.0)


@pytest.mark.parametrize(
    ("kind", "files", "config"),
    [
        ("mlx", ["adapters", "0000100_adapters"], {"fine_tune_type": "lora", "lora_parameters": {"rank": 4, "scale": 3.0}}),
        ("peft", ["adapter_model", "checkpoint-500/adapter_model"], {"peft_type": "LORA", "r": 4, "lora_alpha": 4}),
        ("peft", ["adapter_model", "model"], {"peft_type": "LORA", "r": 4, "lora_alpha": 4}),
        ("diffusers", ["pytorch_lora_weights"], None),
    ],
)  # fmt: skip
def test_a_folder_is_its_finished_adapter(daemon, language, weights, tmp_path, kind, files, config):
    for seed, file in enumerate(files):
        tensors, delta = pair(800 + 10 * seed, kind)
        path = tmp_path / f"{file}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save(tensors, path)
        if config is not None:
            (path.parent / "adapter_config.json").write_text(json.dumps(config))
        if seed == 0:
            expected = weights | {f"{LAYER}.weight": changed(weights[f"{LAYER}.weight"], [delta])}
    loaded = daemon.load(str(language), "model", adapters=asked([(tmp_path, None)]), **OPTIONS)
    check(lent(loaded), expected)


def test_of_equal_files_none_is_taken_unless_a_pattern_names_it(daemon, language, weights, tmp_path):
    for seed, file in enumerate(("style", "style-000010")):
        save(pair(900 + 10 * seed, "kohya")[0], tmp_path / f"{file}.safetensors")
    with pytest.raises(grpc.RpcError) as raised:
        daemon.load(str(language), "model", adapters=asked([(tmp_path, None)]), **OPTIONS)
    assert "style.safetensors, style-000010.safetensors" in raised.value.details()
    selector = model_pb2.ModelSelector(spec=str(tmp_path), patterns=["style.safetensors"])
    loaded = daemon.load(str(language), "model", adapters=[component_pb2.Adapter(model=selector)], **OPTIONS)
    expected = changed(weights[f"{LAYER}.weight"], [pair(900, "kohya")[1]])
    check(lent(loaded), weights | {f"{LAYER}.weight": expected})


def test_whole_weights_of_peft_and_mlx_lm_take_the_place_of_the_models(daemon, language, weights, tmp_path):
    tensors, delta = pair(950, "peft")
    head, norm, embedding = normal(960, (96, 64)), normal(961, (64,)), normal(962, (96, 64))
    saved = {"lm_head": head, "model.embed_tokens": embedding}
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "modules_to_save": ["lm_head", "embed_tokens"]}
    folder = tmp_path / "peft"
    folder.mkdir()
    whole = {f"base_model.model.{name}.weight": values for name, values in saved.items()}
    save(tensors | whole, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    loaded = daemon.load(str(language), "model", adapters=asked([(folder, None)]), **OPTIONS)
    expected = {f"{name}.weight": values for name, values in saved.items()}
    expected[f"{LAYER}.weight"] = changed(weights[f"{LAYER}.weight"], [delta])
    check(lent(loaded), weights | expected)
    folder = tmp_path / "mlx"
    folder.mkdir()
    save({"model.norm.weight": norm, "lm_head.weight": head}, folder / "adapters.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"fine_tune_type": "full", "num_layers": -1}))
    loaded = daemon.load(str(language), "model", adapters=asked([(folder, None)]), **OPTIONS)
    check(lent(loaded), weights | {"model.norm.weight": norm, "lm_head.weight": head})
    assert np.array_equal(lent(loaded)["lm_head.weight"], head)
    # More words than the model has.
    save({"model.norm.weight": norm, "lm_head.weight": normal(963, (97, 64))}, folder / "adapters.safetensors")
    with pytest.raises(grpc.RpcError) as raised:
        daemon.load(str(language), "model", adapters=asked([(folder, None)]), **OPTIONS)
    assert "expected [96, 64], found [97, 64]" in raised.value.details()

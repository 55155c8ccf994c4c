"""What the daemon's core makes of other layouts, judged by a converter that shares nothing with it."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from checkpoints import (
    Z_IMAGE_TURBO,
    text_encoder_shapes,
    transformer_shapes,
    vae_shapes,
    write_directory,
)
from layouts import PREFIXES, all_in_one, places, read_component, read_file, same, to_original, write

TARGET = Path(os.environ.get("CARGO_TARGET_DIR", Path(__file__).parents[2] / "target"))
CANONICAL = TARGET / "debug/examples/canonical"
COMPONENTS = ("transformer", "text_encoder", "vae")


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return write_directory(tmp_path_factory.mktemp("layouts") / "model", seed=7)


@pytest.fixture(scope="module")
def model(directory) -> dict:
    return {component: read_component(directory / component) for component in COMPONENTS}


def hollow(shapes) -> dict[str, np.ndarray]:
    """Arrays of true shape and one byte of memory."""
    return {name: np.broadcast_to(np.zeros((), np.uint8), shape) for name, shape in shapes.items()}


def placed(file: Path, component: str, base: Path) -> list[dict]:
    """Where the core places the tensors of a component."""
    assert CANONICAL.is_file(), f"{CANONICAL} is missing: cargo build -p weightsd-fixtures --examples"
    out = subprocess.run([CANONICAL, file, component, base], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout)


def canonical(file: Path, component: str, base: Path) -> dict[str, np.ndarray]:
    """The tensors as the core places them, read at the places it gives."""
    data, kinds = file.read_bytes(), {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    return {
        tensor["name"]: np.frombuffer(data[tensor["begin"] : tensor["end"]], kinds[tensor["dtype"]]).reshape(tensor["shape"])
        for tensor in placed(file, component, base)
    }


def check(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not same(found[name], expected[name])] == []


def test_the_original_layout_has_the_published_counts():
    transformer = hollow(transformer_shapes(Z_IMAGE_TURBO.transformer))
    # Fusing true arrays would take gigabytes: fuse rows of one column.
    thin = {name: value[..., :1] if value.ndim > 1 else value for name, value in transformer.items()}
    fused = to_original("transformer", thin)
    assert len(fused) == 453
    assert fused["layers.29.attention.qkv.weight"].shape[0] == 11520
    vae = to_original("vae", hollow(vae_shapes(Z_IMAGE_TURBO.vae)))
    assert len(vae) == 244
    assert sum(value.ndim == 4 for value in vae.values()) == 70
    assert vae["decoder.mid.attn_1.q.weight"].shape == (512, 512, 1, 1)
    assert vae["decoder.up.0.block.0.nin_shortcut.weight"].shape == (128, 256, 1, 1)
    text_encoder = hollow(text_encoder_shapes(Z_IMAGE_TURBO.text_encoder))
    assert len(fused) + len(vae) + len(to_original("text_encoder", text_encoder)) == 1095


@pytest.mark.parametrize("component", COMPONENTS)
def test_an_all_in_one_file_gives_back_every_byte(component, directory, model, tmp_path):
    file = write(all_in_one(model), tmp_path / "all.safetensors")
    check(canonical(file, component, directory), model[component])


@pytest.mark.parametrize(
    ("component", "prefix"),
    [
        ("transformer", "diffusion_model."),
        ("transformer", "model.diffusion_model."),
        ("text_encoder", "cond_stage_model."),
        ("text_encoder", "text_encoders.other.transformer."),
        ("vae", "first_stage_model."),
        ("vae", "vae."),
    ],
)
@pytest.mark.parametrize("layout", ["diffusers", "original"])
def test_single_components_give_back_every_byte(component, prefix, layout, directory, model, tmp_path):
    tensors = model[component] if layout == "diffusers" else to_original(component, model[component])
    file = write({prefix + name: value for name, value in tensors.items()}, tmp_path / "part.safetensors")
    check(canonical(file, component, directory), model[component])


def test_the_fixtures_write_the_same_layout(tmp_path):
    """The Rust fixtures, another implementation again, agree on every name and byte."""
    program = TARGET / "debug/examples/make-checkpoint"
    for layout, place in (("directory", tmp_path / "model"), ("all-in-one", tmp_path / "file")):
        subprocess.run([program, "--size", "tiny", "--layout", layout, place], check=True, capture_output=True)
    model = {component: read_component(tmp_path / "model" / component) for component in COMPONENTS}
    check(read_file(tmp_path / "file" / "all-in-one.safetensors"), all_in_one(model))


def test_at_true_size_every_tensor_lies_where_the_converter_puts_it(tmp_path):
    program = TARGET / "debug/examples/make-checkpoint"
    arguments = [program, "--size", "true", "--sparse", "--layout", "all-in-one", tmp_path / "file"]
    subprocess.run(arguments, check=True, capture_output=True)
    file = tmp_path / "file" / "all-in-one.safetensors"
    shapes = {
        "transformer": (Z_IMAGE_TURBO.transformer, transformer_shapes(Z_IMAGE_TURBO.transformer)),
        "text_encoder": (Z_IMAGE_TURBO.text_encoder, text_encoder_shapes(Z_IMAGE_TURBO.text_encoder)),
        "vae": (Z_IMAGE_TURBO.vae, vae_shapes(Z_IMAGE_TURBO.vae)),
    }
    tensors = 0
    for component, (config, _) in shapes.items():
        (tmp_path / component).mkdir()
        (tmp_path / component / "config.json").write_text(json.dumps(config))
    for component, (_, expected) in shapes.items():
        ranges, count = places(file, component, PREFIXES[component], expected)
        found = placed(file, component, tmp_path)
        assert {tensor["name"]: (tensor["begin"], tensor["end"]) for tensor in found} == ranges
        assert {tensor["name"]: tuple(tensor["shape"]) for tensor in found} == expected
        tensors += count
    assert tensors == 1095

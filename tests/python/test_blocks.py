"""Blocks of Z-Image in mlx-rs, on arrays over lent pages, give bit for bit what Python's MLX computes from the files.

The Rust side is `client/examples/blocks`. Here every operation stands in the same order, since each one rounds.
"""

import json
import math
import subprocess
from pathlib import Path

import mlx.core as mx
import pytest
from daemon import DEADLINE, TARGET, Daemon

Arrays = dict[str, mx.array]

DTYPES = {"bf16": mx.bfloat16, "f32": mx.float32, "as-stored": None}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    root = (tmp_path_factory.mktemp("blocks") / "z-image").resolve()
    program = TARGET / "debug/examples/make-checkpoint"
    subprocess.run([program, "--layout", "directory", "--size", "tiny", root], check=True, capture_output=True)
    return root


def weights(folder: Path, dtype: str) -> Arrays:
    """The arrays that the daemon should lend: kernels as MLX has them, floats cast."""
    arrays: Arrays = {}
    for file in sorted(folder.glob("*.safetensors")):
        arrays |= mx.load(str(file))
    kernels = {name: value.transpose(0, 2, 3, 1) for name, value in arrays.items() if value.ndim == 4}
    wanted = DTYPES[dtype]
    return {name: value.astype(wanted or value.dtype) for name, value in (arrays | kernels).items()}


def run(daemon: Daemon, checkpoint: Path, component: str, dtype: str, inputs: Arrays, folder: Path) -> Arrays:
    """What the Rust side computes. All that it computes with must lie in the shared pages."""
    given, written = folder / "in.safetensors", folder / "out.safetensors"
    mx.save_safetensors(str(given), inputs)
    command = [TARGET / "debug/examples/blocks", "--socket", daemon.socket, "--model", checkpoint]
    command += ["--component", component, "--dtype", dtype, "--inputs", given, "--output", written]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr
    assert " tensors lie in the shared pages" in done.stdout and "copied" not in done.stdout, done.stdout
    return mx.load(str(written))


def check(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape), name
        assert mx.all(mx.isfinite(value)).item() and mx.std(value.astype(mx.float32)).item() > 0, name
        assert bytes(memoryview(found[name].view(mx.uint8))) == bytes(memoryview(value.view(mx.uint8))), name


def noise(seed: int, *shape: int, dtype: mx.Dtype) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def silu(x: mx.array) -> mx.array:
    return x * mx.sigmoid(x)


def linear(w: Arrays, name: str, x: mx.array) -> mx.array:
    matrix = w[f"{name}.weight"].T
    return mx.addmm(w[f"{name}.bias"], x, matrix) if f"{name}.bias" in w else x @ matrix


def convolution(w: Arrays, name: str, x: mx.array) -> mx.array:
    kernel = w[f"{name}.weight"]
    return mx.conv2d(x, kernel, padding=kernel.shape[1] // 2) + w[f"{name}.bias"]


def group_norm(w: Arrays, name: str, x: mx.array, groups: int) -> mx.array:
    images, height, width, channels = x.shape
    x = x.reshape(images, -1, groups, channels // groups).transpose(0, 2, 1, 3).reshape(images, groups, -1)
    x = mx.fast.layer_norm(x, weight=None, bias=None, eps=1e-6)
    x = x.reshape(images, groups, -1, channels // groups).transpose(0, 2, 1, 3).reshape(images, height, width, channels)
    return w[f"{name}.weight"] * x + w[f"{name}.bias"]


def resnet(w: Arrays, name: str, x: mx.array, groups: int) -> mx.array:
    hidden = convolution(w, f"{name}.conv1", silu(group_norm(w, f"{name}.norm1", x, groups)))
    hidden = convolution(w, f"{name}.conv2", silu(group_norm(w, f"{name}.norm2", hidden, groups)))
    shortcut = f"{name}.conv_shortcut"
    return (convolution(w, shortcut, x) if f"{shortcut}.weight" in w else x) + hidden


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_block_of_the_vae_decoder(daemon, checkpoint, tmp_path, dtype):
    w = weights(checkpoint / "vae", dtype)
    config = json.loads((checkpoint / "vae/config.json").read_text())
    groups, block = config["norm_num_groups"], "decoder.up_blocks.2"
    weight = w["decoder.conv_in.weight"]
    latents = noise(1, 2, 5, 7, config["latent_channels"], dtype=weight.dtype)

    first = convolution(w, "decoder.conv_in", latents)
    numbers = range(config["layers_per_block"] + 1)
    x, outputs = first, []
    for number in numbers:
        x = resnet(w, f"{block}.resnets.{number}", x, groups)
        outputs.append(x)
    x = mx.repeat(mx.repeat(x, 2, axis=1), 2, axis=2)
    x = convolution(w, f"{block}.upsamplers.0.conv", x)
    assert f"{block}.resnets.0.conv_shortcut.weight" in w and x.shape[1:3] == (10, 14)

    found = run(daemon, checkpoint, "vae", dtype, {"latents": latents}, tmp_path)
    check(found, {"conv_in": first, "resnet": outputs[0], "up_block": x})


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_block_of_the_transformer(daemon, checkpoint, tmp_path, dtype):
    w = weights(checkpoint / "transformer", dtype)
    config = json.loads((checkpoint / "transformer/config.json").read_text())
    dim, heads, eps, b = config["dim"], config["n_heads"], config["norm_eps"], "layers.0"
    kind = w[f"{b}.attention.to_q.weight"].dtype
    images, tokens, width = 2, 9, dim // heads
    x = noise(2, images, tokens, dim, dtype=kind)
    modulation = noise(3, images, w[f"{b}.adaLN_modulation.0.weight"].shape[1], dtype=kind)
    angles = mx.arange(tokens)[:, None] * mx.exp(-mx.arange(width // 2))[None]
    cos, sin = (part(angles).reshape(1, tokens, 1, width // 2, 1).astype(kind) for part in (mx.cos, mx.sin))
    inputs = {"x": x, "modulation": modulation, "cos": cos, "sin": sin}

    def norm(name: str, x: mx.array, eps: float) -> mx.array:
        return mx.fast.rms_norm(x, w[f"{b}.{name}.weight"], eps)

    def turn(x: mx.array) -> mx.array:
        left, right = mx.split(x.reshape(*x.shape[:-1], -1, 2), 2, axis=-1)
        return mx.concatenate([left * cos - right * sin, left * sin + right * cos], axis=-1).reshape(x.shape)

    def attention(x: mx.array) -> mx.array:
        parts = [linear(w, f"{b}.attention.to_{letter}", x).reshape(images, tokens, heads, width) for letter in "qkv"]
        queries = turn(norm("attention.norm_q", parts[0], 1e-5))
        keys = turn(norm("attention.norm_k", parts[1], 1e-5))
        queries, keys, values = (part.transpose(0, 2, 1, 3) for part in (queries, keys, parts[2]))
        x = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=1.0 / math.sqrt(width))
        return linear(w, f"{b}.attention.to_out.0", x.transpose(0, 2, 1, 3).reshape(images, tokens, dim))

    def feed_forward(x: mx.array) -> mx.array:
        hidden = silu(linear(w, f"{b}.feed_forward.w1", x)) * linear(w, f"{b}.feed_forward.w3", x)
        return linear(w, f"{b}.feed_forward.w2", hidden)

    rows = mx.expand_dims(linear(w, f"{b}.adaLN_modulation.0", modulation), 1)
    scale_msa, gate_msa, scale_mlp, gate_mlp = mx.split(rows, 4, axis=2)
    mixed = attention(norm("attention_norm1", x, eps) * (1 + scale_msa))
    y = x + mx.tanh(gate_msa) * norm("attention_norm2", mixed, eps)
    fed = feed_forward(norm("ffn_norm1", y, eps) * (1 + scale_mlp))
    y = y + mx.tanh(gate_mlp) * norm("ffn_norm2", fed, eps)

    check(run(daemon, checkpoint, "transformer", dtype, inputs, tmp_path), {"block": y})

"""Coded weights on the disk to what programs compute with, on the disk: weightsd against Python, over the same file in one
run, and against the disk itself. Prints a table with the ratios.

    python bench/python/coded.py fp8 target/release/weightsd /tmp/coded --gigabytes 6     # scaled FP8 to BF16, against torch
    python bench/python/coded.py q8_0 target/release/weightsd /tmp/coded --gigabytes 6    # GGUF to layers of MLX, against gguf

The folder must be empty or absent. It takes four times the gigabytes, and is deleted afterwards. Caches of the system are not
dropped: the input is read once before each way, so that all of them find it where the system keeps it."""

import argparse
import json
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import gguf
import mlx.core as mx
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

ROWS, COLUMNS = 10240, 3840
CHUNK = 16 << 20


def write_fp8(path: Path, layers: int) -> None:
    """Matrices of Z-Image's widest shape, with a scale each."""
    header, at = {}, 0
    for layer in range(layers):
        for name, dtype, shape, size in (
            (f"layers.{layer}.weight", "F8_E4M3", [ROWS, COLUMNS], ROWS * COLUMNS),
            (f"layers.{layer}.weight_scale", "F32", [], 4),
        ):
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
            at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(5)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _ in range(layers):
            file.write(random.integers(0, 127, ROWS * COLUMNS, np.uint8).tobytes())
            file.write(np.float32(0.0123).tobytes())


def write_q8_0(path: Path, layers: int) -> None:
    """The same matrices in blocks of 32 codes and an F16 scale."""
    writer = gguf.GGUFWriter(path, "bench")
    rows, kind = ROWS, gguf.GGMLQuantizationType.Q8_0
    size = rows * COLUMNS // 32 * 34
    for layer in range(layers):
        shape = [rows, COLUMNS // 32 * 34]
        writer.add_tensor_info(f"layers.{layer}.weight", shape, np.dtype(np.uint8), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    random = np.random.default_rng(5)
    with path.open("ab") as file:
        file.write(bytes(-file.tell() % 32))
        for _ in range(layers):
            blocks = random.integers(0, 256, (rows * COLUMNS // 32, 34), np.uint8)
            blocks[:, :2] = np.frombuffer(np.float16(0.0123).tobytes(), np.uint8)
            file.write(blocks.tobytes())


def read(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        memory = bytearray(CHUNK)
        while file.readinto(memory):
            pass


def copy(path: Path, length: int) -> None:
    """Writes so many bytes, and waits for the disk."""
    with path.open("wb", buffering=0) as file:
        memory = os.urandom(CHUNK)
        for at in range(0, length, CHUNK):
            file.write(memory[: min(CHUNK, length - at)])
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def with_torch(source: Path, target: Path) -> None:
    out = {}
    with safe_open(source, "pt") as file:
        for name in file.keys():  # noqa: SIM118  It is no dict.
            if name.endswith(".weight"):
                scale = file.get_tensor(f"{name}_scale")
                out[name] = (file.get_tensor(name).to(torch.float32) * scale).to(torch.bfloat16)
    save_file(out, target)
    sync(target)


def with_gguf(source: Path, target: Path) -> None:
    out = {}
    for tensor in gguf.GGUFReader(source).tensors:
        floats = mx.array(gguf.dequantize(tensor.data, tensor.tensor_type)).astype(mx.float16)
        layer = tensor.name.removesuffix(".weight")
        parts = mx.quantize(floats, group_size=32, bits=8)
        mx.eval(parts)
        out |= {f"{layer}.{part}": array for part, array in zip(("weight", "scales", "biases"), parts, strict=True)}
    mx.save_safetensors(str(target), out)
    sync(target)


def with_mlx(source: Path, target: Path) -> None:
    mx.save_safetensors(str(target), mx.load(str(source)))
    sync(target)


def timed(way: Callable[[], object]) -> float:
    began = time.perf_counter()
    way()
    return time.perf_counter() - began


def with_weightsd(program: Path, folder: Path, model: Path, *wish: str) -> float:
    """The time of a load, in a daemon that was asked for something before."""
    home = folder / "home"
    home.mkdir(mode=0o700)
    socket = home / "weightsd.sock"
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "HF_HUB_OFFLINE": "1"}
    images = folder / "images"
    images.mkdir(mode=0o700)
    serve = [program, "serve", "--socket", socket, "--image-folder", images, "--image-budget", "1TB"]
    daemon = subprocess.Popen(list(map(str, serve)), env=environment, stderr=subprocess.DEVNULL)
    try:
        while not socket.exists():
            assert daemon.poll() is None, "the daemon ended"
            time.sleep(0.01)
        ask = [str(program), "--socket", str(socket)]
        subprocess.run([*ask, "status"], env=environment, check=True, stdout=subprocess.DEVNULL)
        load = [*ask, "load", str(model), "model", *wish]
        return timed(lambda: subprocess.run(load, env=environment, check=True, stdout=subprocess.DEVNULL))
    finally:
        daemon.terminate()
        daemon.wait()


class Case(NamedTuple):
    """What is converted, into what, and who does it otherwise; the first of the others is the baseline."""

    text: str
    file: str
    write: Callable[[Path, int], None]
    wish: list[str]
    output: float
    others: dict[str, Callable[[Path, Path], None]]


CASES = {
    "fp8": Case(
        "scaled FP8 to BF16", "model.safetensors", write_fp8, ["--dtype", "bf16"], 2, {"torch: load, multiply, save": with_torch}
    ),
    "q8_0": Case(
        "Q8_0 to affine layers of MLX",
        "model.gguf",
        write_q8_0,
        [],
        36 / 34,
        {"gguf: dequantise, MLX: quantise, save": with_gguf, "MLX: load, save": with_mlx},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=CASES)
    parser.add_argument("weightsd", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=6)
    arguments = parser.parse_args()
    case, folder = CASES[arguments.case], arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    assert not any(folder.iterdir()), f"{folder} is not empty"
    try:
        model = folder / "model"
        model.mkdir()
        source = model / case.file
        case.write(source, max(1, round(arguments.gigabytes * 1e9 / (ROWS * COLUMNS))))
        size = source.stat().st_size
        os.sync()
        limit_read = timed(lambda: read(source))
        ways = {"weightsd": with_weightsd(arguments.weightsd.absolute(), folder, model, *case.wish)}
        shutil.rmtree(folder / "images")
        for name, way in case.others.items():
            os.sync()
            read(source)
            ways[name] = timed(lambda way=way: way(source, folder / "theirs.safetensors"))
            (folder / "theirs.safetensors").unlink()
        os.sync()
        limit_write = timed(lambda: copy(folder / "copy", round(case.output * size)))
        limit, baseline = max(limit_read, limit_write), ways[next(iter(case.others))]
        print(f"{size / 1e9:.1f} GB of {case.text}, {os.cpu_count()} processors\n")
        print("| way | seconds | GB/s of input | baseline : it | limit : it |")
        print("|---|---|---|---|---|")
        ways |= {"the disk: read the input": limit_read, "the disk: write the output": limit_write}
        for name, took in ways.items():
            print(f"| {name} | {took:.2f} | {size / 1e9 / took:.2f} | {baseline / took:.2f} | {limit / took:.2f} |")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

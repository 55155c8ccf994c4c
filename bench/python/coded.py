"""From scaled FP8 on the disk to BF16 on the disk: weightsd against torch, which loads, multiplies, rounds and saves the same
file, and against the disk itself. Prints a table with the ratios, of one run.

    python bench/python/coded.py target/release/weightsd /tmp/coded --gigabytes 6

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

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

ROWS, COLUMNS = 10240, 3840
CHUNK = 16 << 20


def write(path: Path, layers: int) -> None:
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


def with_torch(source: Path, target: Path) -> None:
    out = {}
    with safe_open(source, "pt") as file:
        for name in file.keys():  # noqa: SIM118  It is no dict.
            if name.endswith(".weight"):
                scale = file.get_tensor(f"{name}_scale")
                out[name] = (file.get_tensor(name).to(torch.float32) * scale).to(torch.bfloat16)
    save_file(out, target)
    with target.open("rb+") as file:
        os.fsync(file.fileno())


def timed(way: Callable[[], object]) -> float:
    began = time.perf_counter()
    way()
    return time.perf_counter() - began


def with_weightsd(program: Path, folder: Path, model: Path) -> float:
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
        load = [*ask, "load", str(model), "model", "--dtype", "bf16"]
        return timed(lambda: subprocess.run(load, env=environment, check=True, stdout=subprocess.DEVNULL))
    finally:
        daemon.terminate()
        daemon.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weightsd", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float, default=6)
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    assert not any(folder.iterdir()), f"{folder} is not empty"
    try:
        model = folder / "model"
        model.mkdir()
        source = model / "model.safetensors"
        write(source, max(1, round(arguments.gigabytes * 1e9 / (ROWS * COLUMNS))))
        size = source.stat().st_size
        os.sync()
        limit_read = timed(lambda: read(source))
        ours = with_weightsd(arguments.weightsd.absolute(), folder, model)
        shutil.rmtree(folder / "images")
        os.sync()
        read(source)
        theirs = timed(lambda: with_torch(source, folder / "torch.safetensors"))
        (folder / "torch.safetensors").unlink()
        os.sync()
        limit_write = timed(lambda: copy(folder / "copy", 2 * size))
        limit = max(limit_read, limit_write)
        print(f"{size / 1e9:.1f} GB of scaled FP8 to BF16, {os.cpu_count()} processors\n")
        print("| way | seconds | GB/s of input | ratio to torch | ratio to the limit |")
        print("|---|---|---|---|---|")
        ways = {"weightsd": ours, "torch: load, multiply, save": theirs, "the disk: read the input": limit_read}
        for way, took in (ways | {"the disk: write the output": limit_write}).items():
            print(f"| {way} | {took:.2f} | {size / 1e9 / took:.2f} | {theirs / took:.2f} | {limit / took:.2f} |")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

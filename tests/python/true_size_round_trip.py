"""The round trip at true size, every byte: 20.5 GB of made-up BF16 weights, written by the judge as one file in the
original layout, come back from the daemon as the 521, 398 and 244 diffusers tensors. Needs that much disk and some
minutes, so it is run by hand and not by pytest:

    WEIGHTSD_BIN=target/release/weightsd target/ci/venv/bin/python tests/python/true_size_round_trip.py [folder]
"""

import json
import mmap
import os
import sys
import tempfile
import zlib
from pathlib import Path

import conftest  # noqa: F401  It generates the stubs.
import ml_dtypes
import numpy as np
from checkpoints import Z_IMAGE_TURBO, text_encoder_shapes, transformer_shapes, vae_shapes
from daemon import Daemon
from layouts import PREFIXES, to_original
from weights.v1 import component_pb2

SHAPES = {
    "transformer": transformer_shapes(Z_IMAGE_TURBO.transformer),
    "text_encoder": text_encoder_shapes(Z_IMAGE_TURBO.text_encoder),
    "vae": vae_shapes(Z_IMAGE_TURBO.vae),
}


def original(component: str, name: str) -> np.ndarray:
    """A diffusers tensor, made anew each time: its bytes come from its name."""
    shape = SHAPES[component][name]
    count = int(np.prod(shape))
    generator = np.random.default_rng(zlib.crc32(f"{component} {name}".encode()))
    bits = generator.integers(0, 2**64, (count + 3) // 4, dtype=np.uint64).view(np.uint16)[:count]
    return bits.view(ml_dtypes.bfloat16).reshape(shape)


def groups(component: str) -> list[list[str]]:
    """Names of tensors that are converted together: queries, keys and values; the whole autoencoder, which is small."""
    together: dict[str, list[str]] = {}
    for name in SHAPES[component]:
        key = "vae" if component == "vae" else name.rsplit(".to_", 1)[0]
        together.setdefault(key, []).append(name)
    return list(together.values())


def converted(component: str):
    for group in groups(component):
        tensors = {name: original(component, name) for name in group}
        for name, value in to_original(component, tensors).items():
            yield PREFIXES[component] + name, value


def write_all_in_one(path: Path) -> int:
    """Writes the file tensor by tensor, and returns how many it has."""
    header, offset = {}, 0
    for component in SHAPES:  # Shapes first: the header comes before the data.
        for group in groups(component):
            empty = {name: np.empty(SHAPES[component][name], ml_dtypes.bfloat16) for name in group}
            for name, value in to_original(component, empty).items():
                end = offset + value.nbytes
                entry = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [offset, end]}
                header[PREFIXES[component] + name] = entry
                offset = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for component in SHAPES:
            for name, value in converted(component):
                assert header[name]["shape"] == list(value.shape)
                file.write(np.ascontiguousarray(value).view(np.uint16).data)
    assert path.stat().st_size == 8 + len(text) + offset
    return len(header)


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        path = (Path(folder) / "all.safetensors").resolve()
        print(f"{write_all_in_one(path)} tensors, {path.stat().st_size / 1e9:.1f} GB", flush=True)
        with Daemon() as daemon:
            for component, shapes in SHAPES.items():
                loaded = daemon.load(str(path), component, layout=component_pb2.LAYOUT_SOURCE)
                assert loaded.component.audit.clean
                assert {tensor.name for tensor in loaded.tensors} == shapes.keys()
                (segment,) = loaded.component.segments
                descriptor = os.open(segment.path, os.O_RDONLY)
                file = mmap.mmap(descriptor, 0, mmap.MAP_SHARED, mmap.PROT_READ)
                compared = 0
                for tensor in loaded.tensors:
                    expected = original(component, tensor.name)
                    assert (tensor.dtype, tuple(tensor.shape)) == ("BF16", expected.shape), tensor.name
                    found = np.frombuffer(file, np.uint16, tensor.length // 2, tensor.offset)
                    assert np.array_equal(found, expected.view(np.uint16).ravel()), tensor.name
                    compared += tensor.length
                    del found
                file.close()
                os.close(descriptor)
                print(f"{component}: {len(loaded.tensors)} tensors, {compared} bytes, all equal", flush=True)


if __name__ == "__main__":
    main()

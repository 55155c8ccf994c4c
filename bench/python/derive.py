"""What Python's MLX takes for the same work: load, cast (and quantise), save and onto the disk, shard by shard, since no
machine of this size holds all of it. Says how long it took in nanoseconds, and its peak memory in bytes."""

import os
import resource
import sys
import time
from pathlib import Path

import mlx.core as mx


def quantised(name: str, array: mx.array) -> bool:
    """The rule of weightsd for Z-Image's transformer."""
    plain = ("all_x_embedder", "all_final_layer")
    layer = name.removesuffix(".weight")
    return layer != name and array.ndim == 2 and not layer.startswith(plain) and "embed" not in layer and "norm" not in layer


def converted(name: str, array: mx.array, quantise: bool) -> dict[str, mx.array]:
    array = array.astype(mx.bfloat16)
    if not (quantise and quantised(name, array)):
        return {name: array}
    layer = name.removesuffix("weight")
    weight, scales, biases = mx.quantize(array, group_size=64, bits=4)
    return {name: weight, f"{layer}scales": scales, f"{layer}biases": biases}


source, target, quantise = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "quantise"
began = time.perf_counter_ns()
for file in sorted(source.glob("*.safetensors")):
    out = {}
    for name, array in mx.load(str(file)).items():
        out |= converted(name, array, quantise)
    mx.save_safetensors(str(target / file.name), out)
    with open(target / file.name, "rb+") as written:
        os.fsync(written.fileno())
    del out
    mx.clear_cache()
print(time.perf_counter_ns() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)

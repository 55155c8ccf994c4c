"""Time to a dictionary of arrays, and the memory of the process that has it: the package `weightsd` against what programs
call without it, over one file in one run. Each way runs in a process of its own. The daemon is asked not to read ahead: what is
measured is the call, and not the disk beside it.

    PYTHONPATH=client/python/python python bench/python/dictionary.py [GIGABYTES]

The file has the tensors of Z-Image's transformer (521, BF16), its matrices cut or stretched to the wished size. It is
sparse, and lies below TMPDIR.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCKS = [f"layers.{number}" for number in range(30)]
BLOCKS += [f"{kind}_refiner.{number}" for kind in ("noise", "context") for number in range(2)]
MATRICES = {"attention.to_q": 3840, "attention.to_k": 3840, "attention.to_v": 3840, "attention.to_out.0": 3840}
MATRICES |= {"feed_forward.w1": 10240, "feed_forward.w2": 10240, "feed_forward.w3": 10240}
NORMS = ["attention.norm_q", "attention.norm_k", "attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2"]
TENSORS = 521

WAYS = {
    "weightsd, numpy": ("import weightsd", "weightsd.load(path, residency='lazy', progress=False).numpy()", 200),
    "weightsd, torch": ("import weightsd, torch", "weightsd.load(path, residency='lazy', progress=False).torch()", 200),
    "weightsd, tensors": ("import weightsd", "dict(weightsd.load(path, residency='lazy', progress=False))", 200),
    "safetensors.numpy.load_file, as float16": ("from safetensors.numpy import load_file", "load_file(path)", 3),
    "safetensors.torch.load_file": ("from safetensors.torch import load_file", "load_file(path)", 20),
    "safe_open, all tensors": (
        "import torch; from safetensors import safe_open",
        "(lambda file: {name: file.get_tensor(name) for name in file.keys()})(safe_open(path, 'pt'))",
        20,
    ),
    "mx.load and eval": ("import mlx.core as mx", "(lambda arrays: (mx.eval(arrays), arrays)[1])(mx.load(path))", 3),
}

PROGRAM = """
import json, sys, time
path, times = sys.argv[1], int(sys.argv[2])
{prepare}
def memory():
    fields = dict(line.split()[:2] for line in open("/proc/self/smaps_rollup").readlines()[1:])
    return int(fields["Private_Dirty:"]) * 1024
arrays = {call}
count = len(arrays)
del arrays
before, took = memory(), []
for _ in range(times):
    began = time.perf_counter_ns()
    arrays = {call}
    took.append(time.perf_counter_ns() - began)
    assert len(arrays) == count
    own = memory()
    del arrays
print(json.dumps([took, own - before, count]))
"""


def make(path: Path, gigabytes: float, dtype: str) -> None:
    """Writes a header and leaves holes for the weights."""
    shapes = {f"{block}.{name}.weight": [rows, 3840] for block in BLOCKS for name, rows in MATRICES.items()}
    shapes |= {f"{block}.{name}.weight": [128] for block in BLOCKS for name in NORMS}
    while len(shapes) < TENSORS:
        shapes[f"rest.{len(shapes)}.weight"] = [256, 3840]
    stretch = gigabytes * 1e9 / (2 * sum(math.prod(shape) for shape in shapes.values()))
    header, at = {}, 0
    for name, shape in shapes.items():
        if len(shape) == 2:
            shape[0] = max(1, round(shape[0] * stretch))
        end = at + 2 * math.prod(shape)
        header[name], at = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}, end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)


def main() -> None:
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 12.3
    program = os.environ.get("WEIGHTSD_BIN", str(ROOT / "target/release/weightsd"))
    with tempfile.TemporaryDirectory(prefix="weightsd-") as folder:
        files = {"BF16": Path(folder) / "bf16.safetensors", "F16": Path(folder) / "f16.safetensors"}
        for dtype, file in files.items():
            make(file, gigabytes, dtype)
        variables = {**os.environ, "WEIGHTSD_SOCKET": f"{folder}/s", "HOME": folder, "HF_HUB_OFFLINE": "1"}
        daemon = subprocess.Popen([program, "serve"], env=variables, stderr=subprocess.DEVNULL)
        while not Path(folder, "s").exists():
            time.sleep(0.01)
        try:
            print(f"| {gigabytes} GB, {TENSORS} tensors | p50 ms | p90 ms | private MB | times |\n|---|---|---|---|---|")
            for way, (prepare, call, times) in WAYS.items():
                path = files["F16" if "float16" in way else "BF16"]
                code = PROGRAM.format(prepare=prepare, call=call)
                command = [sys.executable, "-c", code, str(path), str(times)]
                done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
                took, own, count = json.loads(done.stdout)
                assert count == TENSORS
                took.sort()
                p50, p90 = statistics.median(took) / 1e6, took[len(took) * 9 // 10] / 1e6
                print(f"| {way} | {p50:.3f} | {p90:.3f} | {own / 1e6:.1f} | {times} |", flush=True)
        finally:
            daemon.terminate()
            daemon.wait()


main()

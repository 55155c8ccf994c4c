"""Writes lists of names, each with the tree that `mlx.utils.tree_unflatten` makes of them: trees.py MODEL OUTPUT."""

import json
import sys
from pathlib import Path

from mlx.utils import tree_unflatten
from safetensors import safe_open

CASES = [
    [],
    [""],
    ["hello.world"],
    ["l.0.w", "l.1.w", "n"],
    ["l.10", "l.2"],
    ["l.0", "l.x"],
    ["e.2-1.w", "e.2-2.w"],
    ["l.01"],
    ["l.01", "l.1"],
    ["0", "1"],
    ["a."],
    [".b"],
    ["a..b"],
    ["layers.1.0.weight", "layers.0.0.weight", "layers.0.1.bias"],
    ["ä.0", "ä.1", "é.x"],
]

model, output = map(Path, sys.argv[1:])
cases = [{"names": names} for names in CASES]
for component in ("transformer", "text_encoder", "vae"):
    names = []
    for file in (model / component).glob("*.safetensors"):
        with safe_open(file, framework="np") as opened:
            names += opened.keys()
    cases.append({"names": names, "component": component})
for case in cases:
    case["tree"] = tree_unflatten([(name, name) for name in case["names"]])
output.write_text(json.dumps(cases))

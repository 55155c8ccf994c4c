"""Asks the daemon for a component and has it judged; and quantised checkpoints to ask for, as other tools write them."""

import json
from pathlib import Path

import numpy as np
from daemon import Daemon, Loaded
from derive_inputs import save
from derive_judge import Conversion, Scheme, chosen, in_mlx, matrices, mode_name, packed, quantise, rule
from layouts import Tensors, read_component
from lent import check, check_image, lent
from weights.v1 import component_pb2

ROLES = {
    component_pb2.PACKING_ROLE_WEIGHT: "weight",
    component_pb2.PACKING_ROLE_SCALES: "scales",
    component_pb2.PACKING_ROLE_BIASES: "biases",
}


def judge(
    daemon: Daemon,
    spec: Path,
    component: str,
    tensors: Tensors,
    conversion: Conversion,
    layers: dict[str, tuple[int, ...]],
    named=lambda tensors: tensors,
    **options,
) -> Loaded:
    """Loads it, and compares all of it: tensors, image, and what is said of packed layers."""
    if conversion.ask:
        options.setdefault("quantise", conversion.ask.message())
    loaded = daemon.load(str(spec), component, **options)
    expected, schemes = conversion.of(tensors)
    check(lent(loaded), named(expected))
    check_image(loaded)
    found = {}
    for tensor in loaded.tensors:
        if tensor.HasField("packing"):
            packing = tensor.packing
            scheme = Scheme(mode_name(packing.mode), packing.bits, packing.group_size)
            found[tensor.name] = (scheme, ROLES[packing.role], tuple(packing.logical_shape))
    parts = [(layer, scheme, role) for layer, scheme in schemes.items() for role in scheme.roles]
    assert found == named({f"{layer}.{role}": (scheme, role, layers[layer]) for layer, scheme, role in parts})
    return loaded


def in_component(component: str):
    """Names in layout MLX, of whatever is called so."""
    return lambda named: dict(zip(in_mlx(component, dict.fromkeys(named, np.zeros(0))), named.values(), strict=True))


def mlx_lm(stored: dict[str, Scheme]) -> dict:
    """As mlx-lm writes it into a config, here with an entry for every layer."""
    entries = {layer: scheme.keywords for layer, scheme in stored.items()}
    return {"quantization": {"group_size": 64, "bits": 4, "plain": False} | entries}


def in_manifest(root: Path, scheme: Scheme, others: dict[str, Scheme]) -> dict[str, tuple[Tensors, dict[str, Scheme]]]:
    """Quantises a model as zimage.swift does: F32 before, one file a component, a manifest in the root."""
    out, listed = {}, []
    for component in ("transformer", "text_encoder"):
        tensors = read_component(root / component)
        layers = matrices(tensors)
        stored = {layer: others.get(layer, scheme) for layer in chosen(layers, scheme, rule)}
        for layer, how in stored.items():
            weight = tensors.pop(f"{layer}.weight").astype(np.float32)
            tensors |= packed(layer, quantise(weight, how), how)
            shape = {"shape": layers[layer], "out_dim": layers[layer][0], "in_dim": layers[layer][1]}
            listed.append({"name": f"{component}.{layer}", "file": "", **shape, **how.keywords})
        for file in (root / component).glob("*.safetensors*"):
            file.unlink()
        save(tensors, root / component / "model.safetensors")
        out[component] = (tensors, stored)
    manifest = {"model_id": "org/z", "revision": "main", "layers": listed, **scheme.keywords}
    (root / "quantization.json").write_text(json.dumps(manifest, indent=2, sort_keys=True))
    return out

"""Models as mflux saves them: a folder for each component and no configs, names of its modules, kernels in MLX's order,
and greedy shards that are called by numbers, with an index."""

import json
from pathlib import Path

from derive_inputs import save
from derive_judge import to_ohwi
from layouts import Tensors

METADATA = {"mflux_version": "0.9.0", "quantization_level": "None"}
# Modules that mflux puts around a layer of the autoencoder.
INSERTED = {
    "encoder.conv_in": "conv2d",
    "encoder.conv_out": "conv2d",
    "decoder.conv_in": "conv",
    "decoder.conv_out": "conv",
    "encoder.conv_norm_out": "norm",
    "decoder.conv_norm_out": "norm",
}
# Layers of the transformer that mflux calls otherwise.
RENAMED = {
    "t_embedder.mlp.0": "t_embedder.linear1",
    "t_embedder.mlp.2": "t_embedder.linear2",
    "all_final_layer.2-1.adaLN_modulation.1": "all_final_layer.2-1.adaLN_modulation.0",
}


def saved(component: str, tensors: Tensors) -> Tensors:
    """The tensors of a component under the names, and in the order, in which mflux saves them."""
    out = {}
    for name, values in tensors.items():
        layer, ending = name.rsplit(".", 1) if "." in name else ("", name)
        if component == "vae" and layer in INSERTED:
            layer = f"{layer}.{INSERTED[layer]}"
        elif component == "transformer":
            layer = RENAMED.get(layer, layer)
        elif component == "text_encoder":
            layer = layer.removeprefix("model.")
        out[f"{layer}.{ending}" if layer else ending] = to_ohwi(values) if values.ndim == 4 else values
    return out


def write(root: Path, components: dict[str, Tensors], shard_bytes: int, metadata: dict[str, str] = METADATA) -> Path:
    """Writes components under mflux's names, each into shards of at most so many bytes."""
    for component, tensors in components.items():
        folder = root / component
        folder.mkdir(parents=True)
        shards: list[Tensors] = [{}]
        size = 0
        for name, values in tensors.items():
            if shards[-1] and size + values.nbytes > shard_bytes:
                shards.append({})
                size = 0
            shards[-1][name] = values
            size += values.nbytes
        weight_map = {}
        for number, shard in enumerate(shards):
            save(shard, folder / f"{number}.safetensors", metadata)
            weight_map |= dict.fromkeys(shard, f"{number}.safetensors")
        index = {"metadata": metadata, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return root

"""Other layouts of Z-Image checkpoints, written from the published lists of names, in numpy.

Independent of the Rust tables: this is the judge of them. `to_original` turns diffusers tensors into those of the
original code (fused attention, LDM autoencoder), `all_in_one` puts a model into one file as ComfyUI saves it.
Run as a program, it converts a diffusers directory:

    python layouts.py <diffusers directory> <file.safetensors> [transformer|text_encoder|vae]
"""

import json
import re
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

Tensors = dict[str, np.ndarray]

PREFIXES = {
    "transformer": "model.diffusion_model.",
    "text_encoder": "text_encoders.qwen3_4b.transformer.",
    "vae": "vae.",
}

DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64,
    "U64": np.uint64, "I32": np.int32, "U32": np.uint32, "I16": np.int16, "U16": np.uint16, "I8": np.int8,
    "U8": np.uint8, "BOOL": np.bool_, "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
}  # fmt: skip


def read_file(path: Path) -> Tensors:
    """All tensors of a safetensors file, without the library, whose numpy side depends on registered dtypes."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            dtype = np.dtype(DTYPES[entry["dtype"]])
            tensors[name] = np.frombuffer(data[begin:end], dtype=dtype).reshape(entry["shape"])
    return tensors


def read_component(folder: Path) -> Tensors:
    tensors: Tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= read_file(path)
    return tensors


def transformer_to_original(tensors: Tensors) -> Tensors:
    out: Tensors = {}
    for name, value in tensors.items():
        if found := re.fullmatch(r"(.+\.attention)\.to_([qkv])\.weight", name):
            if found[2] == "q":
                parts = [tensors[f"{found[1]}.to_{letter}.weight"] for letter in "qkv"]
                out[f"{found[1]}.qkv.weight"] = np.concatenate(parts, axis=0)
            continue
        name = re.sub(r"\.attention\.to_out\.0\.(weight|bias)$", r".attention.out.\1", name)
        name = re.sub(r"\.attention\.norm_([qk])\.weight$", r".attention.\1_norm.weight", name)
        name = re.sub(r"^all_(x_embedder|final_layer)\.2-1\.", r"\1.", name)
        out[name] = value
    return out


def vae_to_original(tensors: Tensors) -> Tensors:
    blocks = 1 + max(int(found[1]) for name in tensors if (found := re.match(r"decoder\.up_blocks\.(\d+)\.", name)))
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    out: Tensors = {}
    for name, value in tensors.items():
        half, rest = name.split(".", 1)
        if found := re.fullmatch(r"mid_block\.attentions\.0\.(group_norm|to_[qkv]|to_out\.0)\.(weight|bias)", rest):
            if value.ndim == 2:
                value = value[:, :, None, None]
            rest = f"mid.attn_1.{attention[found[1]]}.{found[2]}"
        elif found := re.fullmatch(r"mid_block\.resnets\.(\d)\.(.+)", rest):
            rest = f"mid.block_{int(found[1]) + 1}.{found[2]}"
        elif found := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(.+)", rest):
            side, block, inner = found[1], int(found[2]), found[3]
            if side == "up":
                block = blocks - 1 - block
            inner = re.sub(r"^resnets\.", "block.", inner)
            inner = re.sub(r"^(down|up)samplers\.0\.", r"\1sample.", inner)
            rest = f"{side}.{block}.{inner}".replace("conv_shortcut", "nin_shortcut")
        elif rest.startswith("conv_norm_out."):
            rest = rest.removeprefix("conv_")
        out[f"{half}.{rest}"] = value
    return out


def to_original(component: str, tensors: Tensors) -> Tensors:
    """The same tensors as the original code lays them out. The text encoder has one layout."""
    convert = {"transformer": transformer_to_original, "vae": vae_to_original}
    return convert.get(component, dict)(tensors)


def all_in_one(model: dict[str, Tensors], prefixes: dict[str, str] = PREFIXES) -> Tensors:
    parts = ((prefixes[component], to_original(component, tensors)) for component, tensors in model.items())
    return {prefix + name: value for prefix, part in parts for name, value in part.items()}


def write(tensors: Tensors, path: Path) -> Path:
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path, metadata={"format": "pt"})
    return path


def places(file: Path, component: str, prefix: str, shapes: dict[str, tuple[int, ...]]):
    """Where the diffusers tensors of those shapes lie in a file of the original layout, and how many tensors it has of
    the component. Needs no bytes: rows carry the number of their tensor through the conversion and tell where they land.
    """
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    names = list(shapes)
    numbered = {
        name: np.full((shape[0],) + (1,) * (len(shape) - 1), number)
        for number, (name, shape) in enumerate(shapes.items())
    }
    ranges: dict[str, tuple[int, int]] = {}
    converted = to_original(component, numbered)
    for name, rows in converted.items():
        entry = header[prefix + name]
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        assert entry["shape"][0] == len(rows), name
        row_bytes = (end - begin) // len(rows)
        for number, first, count in zip(*np.unique(rows, return_index=True, return_counts=True), strict=True):
            ranges[names[number]] = (begin + first * row_bytes, begin + (first + count) * row_bytes)
    return ranges, len(converted)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal in type, shape and every byte, NaNs included."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def main() -> None:
    source, target, *components = sys.argv[1:]
    folders = {component: read_component(Path(source) / component) for component in components or PREFIXES}
    write(all_in_one(folders), Path(target))


if __name__ == "__main__":
    main()

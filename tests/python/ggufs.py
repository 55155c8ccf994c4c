"""GGUF files, written with the Python package `gguf`, and what its `dequantize` makes of them."""

from collections.abc import Mapping
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
from derive_inputs import any_bits
from gguf import GGMLQuantizationType as Type
from layouts import Tensors

# What weightsd converts. `gguf` has no arithmetic for the two that ggml uses only while it computes.
CONVERTED = [
    Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K,
    Type.IQ4_NL, Type.IQ4_XS, Type.TQ1_0, Type.TQ2_0, Type.MXFP4, Type.NVFP4,
]  # fmt: skip
REFUSED = [Type.IQ1_S, Type.IQ1_M, Type.IQ2_XXS, Type.IQ2_XS, Type.IQ2_S, Type.IQ3_XXS, Type.IQ3_S, Type.Q1_0]
# Types of which MLX has quantised layers that say the same: bits of a code.
EXACT = {Type.Q4_0: 4, Type.Q4_1: 4, Type.Q8_0: 8}

# Where the half floats of a block are, so that random blocks can be given finite ones.
HALVES = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0], Type.Q2_K: [80, 82],
    Type.Q3_K: [108], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208], Type.IQ4_NL: [0], Type.IQ4_XS: [0],
    Type.TQ1_0: [52], Type.TQ2_0: [64], Type.MXFP4: [], Type.NVFP4: [],
}  # fmt: skip


class Blocks:
    """A tensor in a type of ggml: rows of bytes."""

    def __init__(self, kind: Type, stored: np.ndarray):
        self.kind, self.stored = kind, stored

    @classmethod
    def random(cls, kind: Type, seed: int, *shape: int) -> "Blocks":
        """Any bits in any block."""
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        return cls(kind, any_bits(seed, (*shape[:-1], shape[-1] // elements * size), np.dtype(np.uint8)))

    @classmethod
    def sane(cls, kind: Type, seed: int, *shape: int) -> "Blocks":
        """Any codes, with scales as weights have them."""
        made = cls.random(kind, seed, *shape)
        size = gguf.GGML_QUANT_SIZES[kind][1]
        blocks = made.stored.reshape(-1, size).copy()
        scales = np.random.default_rng(seed).uniform(-0.02, 0.02, (len(blocks), 2)).astype(np.float16)
        for at, column in zip(HALVES[kind], scales.T, strict=False):
            blocks[:, at : at + 2] = np.ascontiguousarray(column).view(np.uint8).reshape(-1, 2)
        if kind == Type.MXFP4:
            blocks[:, 0] = 110 + blocks[:, 0] % 16
        return cls(kind, blocks.reshape(made.stored.shape))

    @property
    def floats(self) -> np.ndarray:
        with np.errstate(all="ignore"):
            return gguf.dequantize(self.stored, self.kind)


Stored = Mapping[str, np.ndarray | Blocks]


def write(path: Path, tensors: Stored, architecture: str = "", metadata: Mapping[str, object] | None = None) -> Path:
    """Writes a file. An architecture of "" is none at all, as stable-diffusion.cpp writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, architecture)
    if not architecture:
        for shard in writer.kv_data:
            shard.pop("general.architecture", None)
    for key, value in (metadata or {}).items():
        add(writer, key, value)
    for name, tensor in tensors.items():
        if isinstance(tensor, Blocks):
            writer.add_tensor(name, tensor.stored, raw_dtype=tensor.kind)
        elif tensor.dtype == ml_dtypes.bfloat16:
            stored = np.ascontiguousarray(tensor).view(np.uint8).reshape(*tensor.shape[:-1], tensor.shape[-1] * 2)
            writer.add_tensor(name, stored, raw_dtype=Type.BF16)
        else:
            writer.add_tensor(name, np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer: gguf.GGUFWriter, key: str, value: object) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case list():
            writer.add_array(key, value)
        case _:
            raise TypeError(key)


def floats(tensors: Stored) -> Tensors:
    """What the tensors mean: blocks as F32, and vectors of BF16, which ggml computes with as F32."""
    out: Tensors = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, Blocks):
            out[name] = tensor.floats
        elif tensor.dtype == ml_dtypes.bfloat16 and tensor.ndim <= 1:
            out[name] = tensor.astype(np.float32)
        else:
            out[name] = tensor
    return out


def triplet(blocks: Blocks) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, scales and biases of MLX's affine quantisation in groups of 32, from the blocks' bits."""
    size = gguf.GGML_QUANT_SIZES[blocks.kind][1]
    rows = blocks.stored.shape[0]
    block = blocks.stored.reshape(-1, size)
    scales = np.ascontiguousarray(block[:, :2]).view(np.float16)
    if blocks.kind == Type.Q8_0:
        codes, biases = (block[:, 2:] ^ 0x80).reshape(rows, -1), scales * np.float16(-128)
    else:
        first = 2 if blocks.kind == Type.Q4_0 else 4
        halves = np.concatenate([block[:, first:] & 15, block[:, first:] >> 4], axis=1)
        codes = (halves[:, ::2] | halves[:, 1::2] << 4).reshape(rows, -1)
        biases = scales * np.float16(-8) if first == 2 else np.ascontiguousarray(block[:, 2:4]).view(np.float16)
    words = np.ascontiguousarray(codes).view(np.uint32)
    return words, scales.reshape(rows, -1), biases.reshape(rows, -1)

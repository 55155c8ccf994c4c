"""Tensors on which arithmetic goes wrong first, and models that hold them."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from checkpoints import TINY, Model, write_directory
from derive_judge import BF16, F16, F32
from layouts import Tensors
from safetensors.numpy import save_file

SHAPES = [(), (0,), (1,), (0, 7), (7, 0), (3, 0, 5), (1, 257), (127, 1), (131, 13), (2, 3, 5, 7), (1, 1, 1, 1)]

# Zeros, infinities, quiet and signalling NaNs with payloads, subnormals, the least and the largest numbers, halves
# between two numbers of BF16 and of F16 on either side, and where F16 and BF16 overflow.
F32_BITS = [
    0x00000000, 0x80000000, 0x7F800000, 0xFF800000,
    0x7FC00000, 0xFFC00000, 0x7FC12345, 0x7FFFFFFF, 0x7F800001, 0xFF800001, 0x7FBFFFFF, 0x7F80FFFF, 0xFFA5A5A5,
    0x00000001, 0x80000001, 0x00000FFF, 0x007FFFFF, 0x807FFFFF, 0x00008000, 0x00008001, 0x00018000,
    0x00800000, 0x80800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F7F7FFF, 0x7F7F8000, 0xFF7F8000,
    0x3F800000, 0x3F807FFF, 0x3F808000, 0x3F808001, 0x3F818000, 0xBF818000, 0x3F801000, 0x3F803000, 0x3F803001,
    0x477FE000, 0x477FEFFF, 0x477FF000, 0x47800000, 0xC77FF000, 0x7E967699,
    0x38800000, 0x387FC000, 0x387FFFFF, 0x33800000, 0x33000000, 0x33000001, 0xB3000000, 0x32FFFFFF, 0x33C00000,
]  # fmt: skip


def edges(dtype: np.dtype) -> np.ndarray:
    """All there are of the small types; of F32 each upper half with some lower ones, and those above."""
    if dtype.itemsize == 2:
        return np.arange(1 << 16, dtype=np.uint16).view(dtype)
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    return np.concatenate([np.array(F32_BITS, np.uint32), (upper[:, None] | lower).reshape(-1)]).view(dtype)


def any_bits(seed: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Every pattern of bits is as likely as another: of F32 one in 256 is a NaN, and as many are subnormal."""
    count = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(np.random.default_rng(seed).bytes(count), dtype).reshape(shape)


def normal(seed: int, shape: tuple[int, ...], dtype: np.dtype = F32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32).astype(dtype)


def edge_tensors() -> Tensors:
    """All edges of each type of float, a few of them in every odd shape, and what are no floats."""
    tensors: Tensors = {}
    for dtype in (F32, F16, BF16):
        every = edges(dtype)
        few = np.array(F32_BITS, np.uint32).view(F32)
        with np.errstate(all="ignore"):
            few = few if dtype == F32 else few.astype(dtype)
        tensors[f"{dtype}.edges"] = every
        tensors[f"{dtype}.column"] = every[:, None]
        tensors[f"{dtype}.row"] = every[None]
        for shape in SHAPES:
            tensors[f"{dtype}.{'x'.join(map(str, shape)) or 'scalar'}"] = np.resize(few, shape)
    for dtype in ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f8"):
        tensors[f"untouched.{dtype}"] = any_bits(1, (7, 3), np.dtype(dtype))
    tensors["untouched.bool"] = np.array([[True], [False], [True]])
    tensors['a name with "quotes", \\, / and \u00e4'] = few
    tensors["untouched.empty"] = np.zeros((0, 3), np.int32)
    return tensors


def edge_rows(columns: int, dtype: np.dtype) -> Tensors:
    """Matrices whose groups are hard to quantise."""
    few = np.array(F32_BITS, np.uint32).view(F32)
    with np.errstate(all="ignore"):
        few = few if dtype == F32 else few.astype(dtype)
    tiny, largest = np.finfo(np.float32).smallest_subnormal, ml_dtypes.finfo(dtype).max
    base = normal(5, (4, columns))
    rows = {
        "zeros": np.zeros((3, columns), np.float32),
        "negative_zeros": np.full((3, columns), -0.0, np.float32),
        "constant": np.repeat(np.array([[0.3], [-7.5], [1e-9]], np.float32), columns, axis=1),
        "outlier": np.where(np.arange(columns) % 128 == 77, np.float32(-3e4), base),
        "infinity": np.where(np.arange(columns) % 128 == 5, np.float32(np.inf), base),
        "both_infinities": np.where(np.arange(columns) % 3 == 1, np.float32(-np.inf), np.float32(np.inf))[None],
        "nan": np.where(np.arange(columns) % 64 == 9, np.float32(np.nan), base),
        "only_nan": np.full((1, columns), np.nan, np.float32),
        "tiny": (np.arange(2 * columns, dtype=np.float32) * tiny).reshape(2, columns),
        "positive": np.abs(base),
        "negative": -np.abs(base),
        "one_row": normal(6, (1, columns)),
        "prime_rows": normal(7, (67, columns)),
    }
    with np.errstate(all="ignore"):
        tensors = {name: np.ascontiguousarray(values.astype(dtype)) for name, values in rows.items()}
    tensors["largest"] = np.where(np.arange(columns) % 2 == 0, largest, -largest).astype(dtype)[None].repeat(2, axis=0)
    tensors["edges"] = np.resize(few, (5, columns))
    tensors["any_bits"] = any_bits(8, (61, columns), dtype)
    return tensors


def generic(folder: Path, tensors: Tensors, config: dict | None = None) -> Path:
    """A folder that no family knows: its component is `model`."""
    folder.mkdir(parents=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    save(tensors, folder / "model.safetensors")
    return folder.resolve()


def save(tensors: Tensors, path: Path, metadata: dict[str, str] | None = None) -> Path:
    """Scalars stay scalars."""
    save_file({name: values.copy(order="C") for name, values in tensors.items()}, path, metadata)
    return path.resolve()


# Wide enough for every group size somewhere, and for none everywhere.
SMALL = Model(
    transformer=TINY.transformer | {"dim": 192, "n_heads": 2, "n_kv_heads": 2, "axes_dims": [32, 32, 32]}
    | {"cap_feat_dim": 128, "n_layers": 1, "n_refiner_layers": 1},
    text_encoder=TINY.text_encoder
    | {"hidden_size": 128, "head_dim": 24, "num_attention_heads": 4, "intermediate_size": 160, "num_hidden_layers": 2},
    vae=TINY.vae,
)  # fmt: skip


def small(folder: Path) -> Path:
    return write_directory(folder, SMALL, seed=21).resolve()

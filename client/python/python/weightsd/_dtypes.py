"""What the dtypes of safetensors are called elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ._errors import CannotView

if TYPE_CHECKING:
    import numpy
    import torch


@dataclass(frozen=True)
class DType:
    """A dtype by its names. `None` where a library has none of that width and meaning."""

    bits: int
    numpy: str | None
    torch: str | None
    #: Type code of DLPack 1.1.
    dlpack: int | None
    #: The dtype in which `mlx.core.load` gives the same file: E4M3 and E8M0 come as their bytes.
    mlx: str | None
    #: Elements that one element of torch's dtype holds.
    packed: int = 1


_INT, _UINT, _FLOAT, _BFLOAT, _COMPLEX, _BOOL = 0, 1, 2, 4, 5, 6

DTYPES = {
    "BOOL": DType(8, "bool", "bool", _BOOL, "bool_"),
    "U8": DType(8, "uint8", "uint8", _UINT, "uint8"),
    "I8": DType(8, "int8", "int8", _INT, "int8"),
    "U16": DType(16, "uint16", "uint16", _UINT, "uint16"),
    "I16": DType(16, "int16", "int16", _INT, "int16"),
    "U32": DType(32, "uint32", "uint32", _UINT, "uint32"),
    "I32": DType(32, "int32", "int32", _INT, "int32"),
    "U64": DType(64, "uint64", "uint64", _UINT, "uint64"),
    "I64": DType(64, "int64", "int64", _INT, "int64"),
    "F16": DType(16, "float16", "float16", _FLOAT, "float16"),
    "BF16": DType(16, "bfloat16", "bfloat16", _BFLOAT, "bfloat16"),
    "F32": DType(32, "float32", "float32", _FLOAT, "float32"),
    "F64": DType(64, "float64", "float64", _FLOAT, "float64"),
    "C64": DType(64, "complex64", "complex64", _COMPLEX, "complex64"),
    "F8_E4M3": DType(8, "float8_e4m3fn", "float8_e4m3fn", 10, "uint8"),
    "F8_E4M3FNUZ": DType(8, "float8_e4m3fnuz", "float8_e4m3fnuz", 11, None),
    "F8_E5M2": DType(8, "float8_e5m2", "float8_e5m2", 12, None),
    "F8_E5M2FNUZ": DType(8, "float8_e5m2fnuz", "float8_e5m2fnuz", 13, None),
    "F8_E8M0": DType(8, "float8_e8m0fnu", "float8_e8m0fnu", 14, "uint8"),
    "F6_E2M3": DType(6, None, None, None, None),
    "F6_E3M2": DType(6, None, None, None, None),
    "F4": DType(4, None, "float4_e2m1fn_x2", None, None, packed=2),
}

#: Names that numpy has only with the package `ml_dtypes`.
_ML_DTYPES = {"bfloat16"} | {dtype.numpy for dtype in DTYPES.values() if dtype.numpy and "8_e" in dtype.numpy}


def dtype_of(name: str) -> DType:
    """A dtype by its name in safetensors. One that this version does not know has no name anywhere."""
    return DTYPES.get(name, DType(0, None, None, None, None))


def no_view(tensor: str, dtype: str, library: str) -> CannotView:
    error = CannotView(f"tensor {tensor!r} is {dtype}, for which {library} has no dtype")
    error.hint = "its bytes are in `memoryview()`"
    return error


@lru_cache(maxsize=None)
def numpy_dtype(name: str) -> numpy.dtype[Any] | None:
    import numpy

    named = dtype_of(name).numpy
    if named is None:
        return None
    if named not in _ML_DTYPES:
        return numpy.dtype(named)
    import ml_dtypes

    found = getattr(ml_dtypes, named, None)
    return None if found is None else numpy.dtype(found)


@lru_cache(maxsize=None)
def torch_dtype(name: str) -> torch.dtype | None:
    import torch

    named = dtype_of(name).torch
    return None if named is None else getattr(torch, named, None)

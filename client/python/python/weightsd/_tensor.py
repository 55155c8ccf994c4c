"""One tensor, and its views in other libraries."""

from __future__ import annotations

import builtins
import ctypes
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ._dtypes import dtype_of, no_view, numpy_dtype, torch_dtype
from ._errors import WeightsdError
from ._pages import Pages

if TYPE_CHECKING:
    # The methods have the names of the modules.
    from mlx.core import array as MlxArray
    from numpy import ndarray as NumpyArray
    from torch import Tensor as TorchTensor
    from torch import device as TorchDevice

_CPU = 1  # kDLCPU

MISALIGNED = "misaligned: its first byte is at no multiple of its element's size"
BACKEND = "MLX's backend keeps arrays in memory of its own"
DEVICE = "asked for on another device"


class Tensor:
    """A tensor of a component, in pages that all its holders share. It stays readable when the lease has ended and the
    daemon is gone.

    It is no array itself: `numpy()`, `torch()` and `mlx()` give arrays over the same memory. NumPy, PyTorch, JAX and
    others also take it as it is, through DLPack, and from Python 3.12 on through the buffer protocol.
    """

    __slots__ = ("name", "dtype", "shape", "nbytes", "source_name", "_pages", "_segment", "_offset", "__weakref__")

    name: str
    #: The safetensors name, such as `BF16`.
    dtype: str
    #: Dimensions, row-major; empty for a scalar.
    shape: tuple[int, ...]
    #: Length in bytes.
    nbytes: int
    #: Its name in the checkpoint.
    source_name: str

    def __init__(
        self,
        pages: Pages,
        name: str,
        dtype: str,
        shape: tuple[int, ...],
        segment: int,
        offset: int,
        nbytes: int,
        source_name: str,
    ) -> None:
        self._pages = pages
        self.name, self.dtype, self.shape, self.nbytes = name, dtype, shape, nbytes
        self.source_name = source_name
        self._segment, self._offset = segment, offset

    def __repr__(self) -> str:
        return f"Tensor({self.name!r}, {self.dtype}, {list(self.shape)})"

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def address(self) -> int:
        """Address of its first byte in this process; 0 when it has no bytes."""
        return self._pages.map(self._segment)[1] + self._offset if self.nbytes else 0

    def memoryview(self) -> builtins.memoryview:
        """Its bytes, little endian, row-major. They are this process's to write to, and shared until then."""
        if not self.nbytes:
            return memoryview(bytearray())
        mapped, _ = self._pages.map(self._segment)
        return memoryview(mapped)[self._offset : self._offset + self.nbytes]

    def __buffer__(self, flags: int) -> builtins.memoryview:
        """The buffer protocol (PEP 688, Python 3.12 and later); of dtypes that it has no code for, bytes."""
        return self.memoryview()

    def numpy(self) -> NumpyArray[Any, Any]:
        """A NumPy array over the shared pages. BF16 and 8-bit floats have the dtypes of the package `ml_dtypes`.

        Raises `CannotView` for 4-bit and 6-bit floats, which NumPy cannot pack.
        """
        import numpy

        dtype = numpy_dtype(self.dtype)
        if dtype is None:
            raise no_view(self.name, self.dtype, "NumPy")
        if not self.nbytes:
            return numpy.empty(self.shape, dtype)
        array: NumpyArray[Any, Any] = numpy.ndarray(
            self.shape, dtype, self._pages.map(self._segment)[0], self._offset
        )
        return array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NumpyArray[Any, Any]:
        import numpy

        array = self.numpy()
        if dtype is not None and numpy.dtype(dtype) != array.dtype:
            if copy is False:
                raise ValueError(f"tensor {self.name!r} is {self.dtype}: another dtype needs a copy")
            cast: NumpyArray[Any, Any] = array.astype(numpy.dtype(dtype))
            return cast
        return array.copy() if copy else array

    def torch(self, device: str | TorchDevice | None = None) -> TorchTensor:
        """A torch tensor over the shared pages. On another device than the CPU it is a copy, and counted.

        F4 comes as `float4_e2m1fn_x2`, two elements in one, so its last dimension is half as long. Raises `CannotView`
        for dtypes that torch does not have.
        """
        import torch

        made = self._torch()
        if device is None or torch.device(device).type == "cpu":
            return made
        self._pages.copied(self.name, self.nbytes, "torch", DEVICE)
        return made.to(device)

    def _torch(self) -> TorchTensor:
        import torch

        dtype, packed = torch_dtype(self.dtype), dtype_of(self.dtype).packed
        shape = self.shape
        if packed > 1 and shape:
            if shape[-1] % packed:
                raise no_view(self.name, f"{self.dtype} with rows of {shape[-1]}", "torch")
            shape = (*shape[:-1], shape[-1] // packed)
        if dtype is None:
            raise no_view(self.name, self.dtype, "torch")
        if not self.nbytes:
            return torch.empty(shape, dtype=dtype)
        count = math.prod(shape)
        mapped, _ = self._pages.map(self._segment)
        if self._offset % (self.nbytes // count):
            self._pages.copied(self.name, self.nbytes, "torch", MISALIGNED)
            return torch.frombuffer(bytearray(self.memoryview()), dtype=dtype).view(shape)
        whole = torch.frombuffer(mapped, dtype=dtype, count=count, offset=self._offset)
        return whole.view(shape)

    def mlx(self) -> MlxArray:
        """An MLX array: in the shared pages where MLX's backend allows that (Metal), otherwise a copy, and counted. Dtypes
        are those that `mlx.core.load` gives: 8-bit floats (E4M3) come as their bytes.

        Raises `CannotView` for dtypes that MLX does not load.
        """
        import mlx.core as mx

        named = dtype_of(self.dtype).mlx
        if named is None:
            raise no_view(self.name, self.dtype, "MLX")
        dtype = getattr(mx, named)
        if not self.nbytes:
            return mx.zeros(self.shape, dtype)
        view = _Bytes(self, self.dtype if named != "uint8" else "U8")
        if _mlx_shares() and self.dtype != "F64":
            try:
                return mx.asarray(view, copy=False)
            except ValueError:
                why = "refused by the GPU's driver, or at no page's beginning"
        else:
            why = BACKEND
        self._pages.copied(self.name, self.nbytes, "mlx", why)
        if self.dtype == "F64" or self._offset % (dtype_of(self.dtype).bits // 8):
            # MLX would make float32 of float64, and takes nothing misaligned.
            content: Any = builtins.memoryview(bytearray(self.memoryview()))
            plain = mx.array(content, mx.uint8)
            return plain.view(dtype, stream=mx.cpu).reshape(self.shape, stream=mx.cpu)
        return mx.asarray(view, copy=True)

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CPU, 0

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule over the shared pages, of this process's own to write to."""
        return self._capsule(self.dtype, stream, max_version, dl_device, copy)

    def _capsule(
        self,
        dtype: str,
        stream: Any,
        max_version: tuple[int, int] | None,
        dl_device: tuple[int, int] | None,
        copy: bool | None,
    ) -> Any:
        from . import _native

        if stream is not None:
            raise BufferError("memory of the CPU has no stream")
        if dl_device is not None and dl_device[0] != _CPU:
            raise BufferError(f"the tensor is in memory of the CPU, not on device {dl_device}")
        known = dtype_of(dtype)
        if known.dlpack is None:
            raise BufferError(f"DLPack has no dtype for {self.dtype} as safetensors packs it")
        owner: Any = self._pages.map(self._segment)[0] if self.nbytes else None
        address = self.address
        if copy and self.nbytes:
            owner = (ctypes.c_char * self.nbytes).from_buffer_copy(self.memoryview())
            address = ctypes.addressof(owner)
        versioned = max_version is not None and max_version[0] >= 1
        shape = list(self.shape)
        return _native.capsule(
            owner, address, shape, known.dlpack, known.bits, read_only=False, versioned=versioned
        )


class _Bytes:
    """A tensor under the dtype in which MLX takes it."""

    def __init__(self, tensor: Tensor, dtype: str) -> None:
        self._tensor, self._dtype = tensor, dtype

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._tensor.__dlpack_device__()

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        return self._tensor._capsule(self._dtype, stream, max_version, dl_device, copy)


@lru_cache(maxsize=None)
def _mlx_shares() -> bool:
    """Whether MLX's backend can use memory that it did not allocate."""
    import mlx.core as mx

    return bool(mx.metal.is_available())


def unflatten(items: list[tuple[str, Any]]) -> Any:
    """The tree that the dots in the names describe, as `mlx.utils.tree_unflatten` builds it: a node whose keys are all
    numbers is a list, and numbers that are left out become empty dictionaries."""
    root: dict[str, Any] = {}
    for name, value in items:
        *path, last = name.split(".")
        if len(path) >= _DEPTH:
            raise WeightsdError(f"tensor {name!r} cannot be in a tree: its name has more than {_DEPTH} parts")
        node = root
        for key in path:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise WeightsdError(f"tensor {name!r} cannot be in a tree: the beginning of its name is a tensor too")
        if last in node:
            raise WeightsdError(f"tensor {name!r} cannot be in a tree: its name is also the beginning of others")
        node[last] = value
    return _listed(root)


#: Parts that a name in a tree may have, as in the Rust client.
_DEPTH = 256
#: Numbers that may be left out in one list. Beyond that the node stays a dictionary.
_GAPS = 10_000


def _listed(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    children = {key: _listed(child) for key, child in node.items()}
    if not children or not all(key.isascii() and key.isdigit() and str(int(key)) == key for key in children):
        return children
    last = max(int(key) for key in children)
    if last + 1 - len(children) > _GAPS:
        return children
    return [children.get(str(index), {}) for index in range(last + 1)]

"""Components in the memory of an NVIDIA card, once for all processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from . import _native
from ._dtypes import dtype_of, no_view, torch_dtype
from ._errors import CannotView
from ._leased import Leased

if TYPE_CHECKING:
    # The methods have the names of the modules.
    from torch import Tensor as TorchTensor

_CUDA = 2  # kDLCUDA


class CardTensor:
    """A tensor in the memory of a card, which all its holders share. It stays readable when the lease has ended and the daemon
    is gone, as long as this object or an array over it lives.

    It is mapped for reading. A kernel that writes to it fails, and with it this process's context on the card; other processes
    are unharmed. Copy (`tensor.torch().clone()`) what has to change.

    PyTorch, CuPy, JAX and others take it through DLPack: `cupy.from_dlpack(tensor)`.
    """

    __slots__ = ("name", "dtype", "shape", "nbytes", "source_name", "_memory", "_offset", "__weakref__")

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
        memory: _native.CardMemory,
        name: str,
        dtype: str,
        shape: tuple[int, ...],
        offset: int,
        nbytes: int,
        source_name: str,
    ) -> None:
        self._memory, self._offset = memory, offset
        self.name, self.dtype, self.shape, self.nbytes = name, dtype, shape, nbytes
        self.source_name = source_name

    def __repr__(self) -> str:
        return f"CardTensor({self.name!r}, {self.dtype}, {list(self.shape)}, {self.device!r})"

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def device(self) -> str:
        """The card as torch names it in this process, such as `cuda:0`."""
        return f"cuda:{self._memory.card()[1]}"

    @property
    def address(self) -> int:
        """Address of its first byte, for kernels of this process; 0 when it has no bytes."""
        return self._memory.address() + self._offset if self.nbytes else 0

    def torch(self) -> TorchTensor:
        """A torch tensor over the shared memory.

        F4 comes as `float4_e2m1fn_x2`, two elements in one, so its last dimension is half as long. Raises `CannotView`
        for dtypes that torch does not have.
        """
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
            return torch.empty(shape, dtype=dtype, device=self.device)
        from torch.utils.dlpack import from_dlpack

        # As bytes, because DLPack's consumers do not know all of the dtypes that torch has.
        whole: TorchTensor = from_dlpack(_Bytes(self))
        return whole.view(dtype).view(shape)

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CUDA, self._memory.card()[1]

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule over the shared memory, which was filled before anybody could see it, so no stream has to wait. Consumers
        must only read: few of them take memory that says so of itself, so the capsule does not."""
        known = dtype_of(self.dtype)
        if known.dlpack is None:
            raise BufferError(f"DLPack has no dtype for {self.dtype} as safetensors packs it")
        return self._capsule(list(self.shape), known.dlpack, known.bits, max_version, dl_device, copy)

    def _capsule(
        self,
        shape: list[int],
        code: int,
        bits: int,
        max_version: tuple[int, int] | None,
        dl_device: tuple[int, int] | None,
        copy: bool | None,
    ) -> Any:
        device = self.__dlpack_device__()
        if dl_device is not None and tuple(dl_device) != device:
            raise BufferError(f"the tensor is in the memory of card {device[1]}, not on device {dl_device}")
        if copy:
            raise BufferError("the tensor is lent as it is: copy the array that you get")
        versioned = max_version is not None and max_version[0] >= 1
        return _native.capsule(
            self._memory, self.address, shape, code, bits, read_only=False, versioned=versioned, device=device
        )


class _Bytes:
    """A tensor as its bytes."""

    def __init__(self, tensor: CardTensor) -> None:
        self._tensor = tensor

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
        known = dtype_of("U8")
        assert known.dlpack is not None
        shape = [self._tensor.nbytes]
        return self._tensor._capsule(shape, known.dlpack, known.bits, max_version, dl_device, copy)


class CardComponent(Leased[CardTensor]):
    """The tensors of a component in the memory of a card by name, under a lease of its own.

    The lease ends with `close()`, at the end of a `with` block, or when the component is garbage. Tensors and arrays outlive it,
    and the daemon too: the memory stays as long as one of them lives, in whatever process.
    """

    def __init__(self, lease: _native.CardLease) -> None:
        super().__init__(lease)
        memory = lease.memory()
        self._memory = memory
        self._tensors = {row[0]: CardTensor(memory, *row) for row in lease.table()}

    def __enter__(self) -> CardComponent:
        return self

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __repr__(self) -> str:
        state = "leased" if self.leased else "released"
        size = f"{len(self)} tensors, {self.nbytes} bytes"
        return f"<CardComponent {self.name} of {self.source} on {self.device}: {size}, {state}>"

    @property
    def device(self) -> str:
        """The card as torch names it in this process, such as `cuda:0`."""
        return f"cuda:{self._memory.card()[1]}"

    @property
    def uuid(self) -> str:
        """The card's UUID, which is the same in every process."""
        return self._memory.card()[0]

    def torch(self) -> dict[str, TorchTensor]:
        """All tensors as torch tensors over the shared memory; what `load_state_dict(..., assign=True)` takes."""
        return {name: tensor.torch() for name, tensor in self._tensors.items()}

    def mlx(self) -> dict[str, Any]:
        """Raises `CannotView`: MLX's CUDA backend uses no memory that it did not allocate."""
        error = CannotView("MLX cannot use memory of a card that it did not allocate")
        error.hint = "`Component.mlx()`, of the component in files, copies, and `report()` counts that"
        raise error

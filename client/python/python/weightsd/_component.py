"""A loaded component."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from . import _native
from ._card import CardComponent
from ._errors import WeightsdError
from ._leased import Leased
from ._pages import Copied, Pages
from ._tensor import Tensor, unflatten

if TYPE_CHECKING:
    # The methods have the names of the modules.
    from mlx.core import array as MlxArray
    from numpy import ndarray as NumpyArray
    from torch import Tensor as TorchTensor
    from torch import device as TorchDevice


def nvidia() -> bool:
    """Whether this process sees a card of NVIDIA's: other vendors' torch says `cuda`, too."""
    try:
        _native.card("cuda")
    except WeightsdError:
        return False
    return True


@dataclass(frozen=True)
class Scheme:
    """A way to quantise a layer; the names are MLX's."""

    #: `affine`, `mxfp4`, `mxfp8` or `nvfp4`.
    mode: str
    #: Bits of a code.
    bits: int
    #: Weights that share a scale.
    group_size: int

    def __str__(self) -> str:
        return f"{self.mode}:{self.bits}:{self.group_size}"


@dataclass(frozen=True)
class QuantisedLayer:
    """The tensors of a quantised layer. `mlx.core.quantized_matmul` takes weight, scales and biases as they are."""

    name: str
    scheme: Scheme
    #: Dimensions of the weight before quantising.
    shape: tuple[int, ...]
    #: The packed codes, U32.
    weight: Tensor
    #: One number for each group.
    scales: Tensor
    #: A second number for each group, in affine quantisation.
    biases: Tensor | None = None
    #: A factor on the scales, in some files of mode `nvfp4`.
    global_scale: Tensor | None = None


@dataclass(frozen=True)
class Report:
    """Where the arrays of a component lie, as far as they have been asked for."""

    #: Tensors of the component, and their bytes.
    tensors: int
    nbytes: int
    #: Tensors that no file had as they were wanted, so that they lie in an image that everyone shares.
    computed: int
    #: Copies in memory of this process alone.
    copied: tuple[Copied, ...] = field(default=())

    @property
    def copied_bytes(self) -> int:
        return sum(copy.nbytes for copy in self.copied)

    def __str__(self) -> str:
        text = f"{self.tensors} tensors lie in shared pages ({self.nbytes} bytes, {self.computed} computed)"
        if not self.copied:
            return f"{text}; nothing was copied"
        reasons: dict[str, int] = {}
        for copy in self.copied:
            reasons[f"for {copy.library}: {copy.why}"] = reasons.get(f"for {copy.library}: {copy.why}", 0) + 1
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        return f"{text}; {len(self.copied)} copies were made ({self.copied_bytes} bytes): {why}"

    def _repr_html_(self) -> str:
        return f"<p>{self}</p>"


class Component(Leased[Tensor]):
    """The tensors of a component by name, under a lease.

    The lease ends with `close()`, at the end of a `with` block, or when the component is garbage. Tensors and arrays
    outlive it, and the daemon too: their pages stay mapped as long as one of them lives. What ends is the daemon's
    promise to keep the component warm, and its notices.
    """

    def __init__(self, lease: _native.Lease, onto: Callable[[str], CardComponent] | None = None) -> None:
        super().__init__(lease)
        self._lease = lease
        self._pages = Pages(lease.files())
        self._tensors = {row[0]: Tensor(self._pages, *row) for row in lease.table()}
        self._onto = onto
        self._on_cards: dict[str, CardComponent] = {}

    def __enter__(self) -> Component:
        return self

    def __repr__(self) -> str:
        state = "leased" if self.leased else "released"
        return f"<Component {self.name} of {self.source}: {len(self)} tensors, {self.nbytes} bytes, {state}>"

    def close(self) -> None:
        """Ends the lease, and those of `torch` on cards. Tensors and arrays stay."""
        super().close()
        for on_card in self._on_cards.values():
            on_card.close()

    def on_card(self, device: str | TorchDevice = "cuda") -> CardComponent:
        """The same component in the memory of an NVIDIA card, once for all processes, under a lease of its own. `device` is
        `cuda`, `cuda:1`, or the card's UUID; the first request copies, the others get the same memory in less than a
        millisecond."""
        if self._onto is None:
            raise WeightsdError("a component of a model folder cannot be put onto a card: load it by itself")
        return self._onto(_native.card(str(device)))

    # Its arrays.

    def numpy(self) -> dict[str, NumpyArray[Any, Any]]:
        """All tensors as NumPy arrays over the shared pages."""
        return {name: tensor.numpy() for name, tensor in self._tensors.items()}

    def torch(self, device: str | TorchDevice | None = None) -> dict[str, TorchTensor]:
        """All tensors as torch tensors over the shared pages; what `load_state_dict(..., assign=True)` takes. On an NVIDIA
        card (`cuda`, `cuda:1`) they lie in memory that all processes share, for reading only, until the last of them is gone:
        see `on_card`. On any other device they are copies, and counted."""
        if self._onto is not None and device is not None and str(device).startswith("cuda") and nvidia():
            uuid = _native.card(str(device))
            if uuid not in self._on_cards:
                self._on_cards[uuid] = self._onto(uuid)
            return self._on_cards[uuid].torch()
        return {name: tensor.torch(device) for name, tensor in self._tensors.items()}

    def mlx(self) -> dict[str, MlxArray]:
        """All tensors as MLX arrays; what `mlx.core.load` gives."""
        return {name: tensor.mlx() for name, tensor in self._tensors.items()}

    def mlx_module_weights(self) -> list[tuple[str, MlxArray]]:
        """What `mlx.nn.Module.load_weights` takes."""
        return list(self.mlx().items())

    def tree(self, view: Callable[[Tensor], Any] = lambda tensor: tensor) -> Any:
        """The tensors as the tree that the dots in their names describe: dictionaries, and lists where names are numbers.
        `view` makes the leaves, such as `Tensor.numpy`."""
        return unflatten([(name, view(tensor)) for name, tensor in self._tensors.items()])

    @cached_property
    def quantised(self) -> dict[str, QuantisedLayer]:
        """The quantised layers, by name."""
        layers = {}
        for name, mode, bits, group_size, shape, *parts in self._lease.layers():
            scheme = Scheme(mode.lower(), bits, group_size)
            weight, scales, biases, factor = (None if part is None else self._tensors[part] for part in parts)
            assert weight is not None and scales is not None
            layers[name] = QuantisedLayer(name, scheme, tuple(shape), weight, scales, biases, factor)
        return layers

    def report(self) -> Report:
        """What lies in shared pages, what was copied until now, and why."""
        copied = tuple(self._pages.copies.values())
        return Report(len(self), self.nbytes, len(self._lease.computed()), copied)

"""A loaded component."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from . import _native
from ._message import read
from ._messages import AuditReport, ComponentInfo, Notice, ResolvedModel
from ._pages import Copied, Pages
from ._tensor import Tensor, unflatten

if TYPE_CHECKING:
    # The methods have the names of the modules.
    from mlx.core import array as MlxArray
    from numpy import ndarray as NumpyArray
    from torch import Tensor as TorchTensor
    from torch import device as TorchDevice


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


class Component(Mapping[str, Tensor]):
    """The tensors of a component by name, under a lease.

    The lease ends with `close()`, at the end of a `with` block, or when the component is garbage. Tensors and arrays
    outlive it, and the daemon too: their pages stay mapped as long as one of them lives. What ends is the daemon's
    promise to keep the component warm, and its notices.
    """

    def __init__(self, lease: _native.Lease) -> None:
        self._lease = lease
        self._pages = Pages(lease.files())
        self._tensors = {row[0]: Tensor(self._pages, *row) for row in lease.table()}

    # A mapping of names.

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __repr__(self) -> str:
        state = "leased" if self.leased else "released"
        return f"<Component {self.name} of {self.source}: {len(self)} tensors, {self.nbytes} bytes, {state}>"

    def _repr_html_(self) -> str:
        return self.info._repr_html_()

    # The lease.

    def __enter__(self) -> Component:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the lease. Tensors and arrays stay."""
        self._lease.release()

    @property
    def leased(self) -> bool:
        """Whether the lease stands: it was not closed, and the daemon lives."""
        return self._lease.stands()

    def notices(self) -> list[Notice]:
        """What the daemon has said of the component since the last call, such as that somebody changed a file."""
        return [read(Notice, json.loads(text)) for text in self._lease.notices()]

    # What it is.

    @cached_property
    def info(self) -> ComponentInfo:
        """The daemon's whole description: segments, image, adapters, timings, assumptions."""
        return read(ComponentInfo, json.loads(self._lease.info()))

    @property
    def name(self) -> str:
        """`transformer`, `text_encoder`, `vae`, `model`, ..."""
        return self.info.name

    @property
    def id(self) -> str:
        """A hash of everything that determines the content, in 64 hex digits."""
        return self.info.id

    @property
    def family(self) -> str:
        return self.info.family

    @property
    def model(self) -> ResolvedModel:
        """The model it belongs to, its revision pinned."""
        return self.info.model or ResolvedModel()

    @property
    def source(self) -> str:
        """The model as people name it: the id on the hub, or the path."""
        return self.model.repo or self.model.path

    @cached_property
    def config(self) -> dict[str, Any]:
        """The component's configuration as its family read it; empty when it has none."""
        return json.loads(self.info.config_json) if self.info.config_json else {}

    @property
    def audit(self) -> AuditReport:
        """The comparison of the checkpoint with the family's catalogue."""
        return self.info.audit or AuditReport()

    @property
    def nbytes(self) -> int:
        return self.info.tensor_bytes

    # Its arrays.

    def numpy(self) -> dict[str, NumpyArray[Any, Any]]:
        """All tensors as NumPy arrays over the shared pages."""
        return {name: tensor.numpy() for name, tensor in self._tensors.items()}

    def torch(self, device: str | TorchDevice | None = None) -> dict[str, TorchTensor]:
        """All tensors as torch tensors over the shared pages; what `load_state_dict(..., assign=True)` takes."""
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

"""What all components have, wherever they lie: a lease, and the daemon's description."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Protocol, TypeVar

from ._message import read
from ._messages import AuditReport, ComponentInfo, Notice, ResolvedModel

T = TypeVar("T")


class Lease(Protocol):
    """A lease of the compiled half."""

    def info(self) -> str: ...
    def stands(self) -> bool: ...
    def notices(self) -> list[str]: ...
    def release(self) -> None: ...


class Leased(Mapping[str, T]):
    """Tensors by name, under a lease."""

    _tensors: dict[str, T]

    def __init__(self, lease: Lease) -> None:
        self._held = lease

    # A mapping of names.

    def __getitem__(self, name: str) -> T:
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

    def _repr_html_(self) -> str:
        return self.info._repr_html_()

    # The lease.

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the lease. Tensors and arrays stay."""
        self._held.release()

    @property
    def leased(self) -> bool:
        """Whether the lease stands: it was not closed, and the daemon lives."""
        return self._held.stands()

    def notices(self) -> list[Notice]:
        """What the daemon has said of the component since the last call, such as that somebody changed a file."""
        return [read(Notice, json.loads(text)) for text in self._held.notices()]

    # What it is.

    @cached_property
    def info(self) -> ComponentInfo:
        """The daemon's whole description: segments, image, adapters, timings, assumptions."""
        return read(ComponentInfo, json.loads(self._held.info()))

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

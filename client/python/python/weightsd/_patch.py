"""Programs that are not changed at all: `mlx.core.load` and `safetensors.safe_open` take files through the daemon.

Of a file counts what its own header says: its tensors are given under the names, dtypes and shapes that they have in it,
whatever its family calls them. The daemon serves it when the file is among those that it lends of a component; otherwise,
and where no daemon runs, the original function does the work.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from . import _calls
from ._component import Component
from ._errors import CannotView, NotRunning, WeightsdError
from ._messages import Resolution
from ._tensor import Tensor

#: Folders above a file's own in which its model may begin.
_LEVELS = 2


@dataclass(frozen=True)
class _Replaced:
    module: ModuleType
    name: str
    original: Any


_replaced: list[_Replaced] = []
#: What was said. Each kind of thing is said once.
_warned: set[str] = set()
#: What files belong to: model and components, by path. Small, and right as long as files do not move.
_homes: dict[str, tuple[str, list[str]] | None] = {}


class _NotOurs(Exception):
    """The original function has to do the work."""


def patch() -> None:
    """From now on `mlx.core.load`, `safetensors.safe_open` and what is built on it (`safetensors.torch.load_file`,
    transformers, diffusers, mlx-lm) take safetensors files of models through the daemon.

    Names that other modules have bound are replaced, too. Without a daemon everything works as before, after one warning.
    `unpatch()` takes it back.
    """
    if _replaced:
        return
    import safetensors

    _replace(safetensors.safe_open, _SafeOpen, safetensors)
    try:
        import mlx.core as mx
    except ImportError:
        return
    _replace(mx.load, _mlx_load(mx.load), mx)


def unpatch() -> None:
    """Takes `patch()` back."""
    while _replaced:
        replaced = _replaced.pop()
        setattr(replaced.module, replaced.name, replaced.original)
    _homes.clear()


def _replace(original: Any, replacement: Any, home: ModuleType) -> None:
    """Binds `replacement` wherever a module has bound `original`."""
    if isinstance(replacement, type):
        replacement._original = original  # type: ignore[attr-defined]
    for module in [home, *list(sys.modules.values())]:
        if not isinstance(module, ModuleType) or module.__name__.startswith("weightsd"):
            continue
        for name, value in list(vars(module).items()):
            if value is original:
                _replaced.append(_Replaced(module, name, original))
                setattr(module, name, replacement)


class _File:
    """A file whose tensors the daemon lends."""

    def __init__(self, path: str) -> None:
        self.component = _component(path)
        segment = _segment(self.component, path)
        pages = self.component._pages
        # Of the pages that are lent: at the path another file may lie by now.
        header, begin = _header(pages.map(segment)[0])
        self.metadata: dict[str, str] | None = header.pop("__metadata__", None)
        self.tensors = {
            name: Tensor(
                pages, name, entry["dtype"], tuple(entry["shape"]), segment, begin + start, end - start, name
            )
            for name, entry in header.items()
            for start, end in [entry["data_offsets"]]
        }
        # In the order of the file, as safetensors and MLX give them.
        self.in_order = sorted(header, key=lambda name: header[name]["data_offsets"])


def _open(path: object) -> _File:
    """The file as the daemon lends it. Raises `_NotOurs` when the original function has to do it."""
    if not isinstance(path, (str, os.PathLike)):
        raise _NotOurs
    name = os.path.abspath(os.fspath(path))
    if not name.endswith(".safetensors"):
        raise _NotOurs
    try:
        return _File(name)
    except NotRunning as error:
        _warn("no daemon", f"weightsd: {error}; files are read without it")
        raise _NotOurs from None
    except (WeightsdError, OSError, ValueError, KeyError):
        raise _NotOurs from None


def _warn(kind: str, message: str) -> None:
    if kind not in _warned:
        _warned.add(kind)
        warnings.warn(message, stacklevel=5)


def _header(file: mmap.mmap) -> tuple[dict[str, Any], int]:
    """The header of a file that the daemon has checked, and where the data begins."""
    begin = 8 + int.from_bytes(file[:8], "little")
    header: dict[str, Any] = json.loads(file[8:begin])
    return header, begin


def _component(path: str) -> Component:
    """A component that the file belongs to: of the model in whose folder it lies, or of itself."""
    if path not in _homes:
        _homes[path] = _home(path)
    home = _homes[path]
    if home is None:
        raise _NotOurs
    model, names = home
    refusals = []
    for name in names:
        try:
            # One of its own for each call: whoever writes in place writes to the pages of that call.
            return _calls.load(model, name, layout="source", dtype="as-stored", report_only=True, progress=False)
        except NotRunning:
            raise
        except WeightsdError as error:
            refusals.append(error)
    _warn("refused", f"weightsd: {path} is read without it: {refusals[0]}")
    raise _NotOurs


def _home(path: str) -> tuple[str, list[str]] | None:
    folder, below = os.path.split(path)
    for _ in range(_LEVELS):
        try:
            resolution = _calls.resolve(folder)
        except NotRunning:
            raise
        except WeightsdError:
            resolution = Resolution()
        found = [it for it in resolution.components if any(file.path == below for file in it.files)]
        names = [it.name for it in found if not it.problem]
        if names:
            return folder, names
        folder, last = os.path.split(folder)
        below = f"{last}/{below}"
    return None


def _segment(component: Component, path: str) -> int:
    """Which of the component's segments the file is."""
    for number, segment in enumerate(component.info.segments):
        if os.path.samefile(segment.path, path):
            return number
    _warn("computed", f"weightsd: {path} is read without it: all that the daemon lends of {component.name} is computed")
    raise _NotOurs


def _mlx_load(original: Callable[..., Any]) -> Callable[..., Any]:
    def load(
        file: Any, /, format: str | None = None, return_metadata: bool = False, *, stream: Any = None
    ) -> Any:
        try:
            if format not in (None, "safetensors"):
                raise _NotOurs
            opened = _open(file)
            arrays = {name: opened.tensors[name].mlx() for name in opened.in_order}
        except (_NotOurs, CannotView):
            return original(file, format, return_metadata, stream=stream)
        return (arrays, opened.metadata or {}) if return_metadata else arrays

    load.__doc__ = original.__doc__
    return load


class _SafeOpen:
    """`safetensors.safe_open`, over the shared pages."""

    _original: Any

    def __new__(cls, filename: Any, framework: str, device: Any = "cpu", **options: Any) -> Any:
        try:
            if framework not in _FRAMEWORKS or str(device) != "cpu":
                raise _NotOurs
            opened = _open(filename)
            if any(not _viewable(tensor, framework) for tensor in opened.tensors.values()):
                raise _NotOurs
        except _NotOurs:
            return cls._original(filename, framework, device, **options)
        self = super().__new__(cls)
        self._file, self._view = opened, _FRAMEWORKS[framework]
        return self

    _file: _File
    _view: Callable[[Tensor], Any]

    def __enter__(self) -> _SafeOpen:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.component.close()

    def keys(self) -> list[str]:
        return sorted(self._file.tensors)

    def offset_keys(self) -> list[str]:
        return list(self._file.in_order)

    def metadata(self) -> dict[str, str] | None:
        return self._file.metadata

    def get_tensor(self, name: str) -> Any:
        return self._view(self._tensor(name))

    def get_tensors(self) -> dict[str, Any]:
        return {name: self.get_tensor(name) for name in self.keys()}

    def get_slice(self, name: str) -> _Slice:
        return _Slice(self._tensor(name), self._view)

    def _tensor(self, name: str) -> Tensor:
        found = self._file.tensors.get(name)
        if found is None:
            from safetensors import SafetensorError

            raise SafetensorError(f"File does not contain tensor {name}")
        return found


class _Slice:
    """What `safe_open(...).get_slice` gives."""

    def __init__(self, tensor: Tensor, view: Callable[[Tensor], Any]) -> None:
        self._tensor, self._view = tensor, view

    def get_shape(self) -> list[int]:
        return list(self._view(self._tensor).shape)

    def get_dtype(self) -> str:
        return self._tensor.dtype

    def __getitem__(self, index: Any) -> Any:
        return self._view(self._tensor)[index]


def _numpy(tensor: Tensor) -> Any:
    return tensor.numpy()


def _torch(tensor: Tensor) -> Any:
    return tensor.torch()


_FRAMEWORKS: dict[str, Callable[[Tensor], Any]] = {
    "pt": _torch,
    "torch": _torch,
    "pytorch": _torch,
    "np": _numpy,
    "numpy": _numpy,
}
#: Dtypes for which safetensors' own numpy side has a name; others are left to it.
_PLAIN = {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "F32", "F64", "C64"}


def _viewable(tensor: Tensor, framework: str) -> bool:
    from ._dtypes import torch_dtype

    if _FRAMEWORKS[framework] is _numpy:
        return tensor.dtype in _PLAIN
    return torch_dtype(tensor.dtype) is not None

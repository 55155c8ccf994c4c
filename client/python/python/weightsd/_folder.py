"""A model as a folder that any program opens."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from . import _native
from ._calls import Adapter, adapter_message, beside, client_name, selector, treatment
from ._progress import ProgressOption, Watch
from ._session import CANCEL, StrPath, session, with_daemon

Format = Literal["diffusers", "transformers", "mlx", "mflux"]

#: Folders that were asked for and not closed. Their leases stand as long as the process lives.
_held: dict[int, ModelFolder] = {}


class ModelFolder(type(Path())):  # type: ignore[misc]
    """The path of a folder of links to shared files. The leases on them stand until `close()`, the end of a `with` block,
    or the end of the process."""

    _leases: list[_native.Lease]

    @property
    def leased(self) -> bool:
        """Whether every lease stands."""
        leases = getattr(self, "_leases", [])
        return bool(leases) and all(lease.stands() for lease in leases)

    def close(self) -> None:
        """Ends the leases. The folder stays; what was computed for it may be deleted when there is no room."""
        for lease in getattr(self, "_leases", []):
            lease.release()
        self._leases = []
        _held.pop(id(self), None)

    def __enter__(self) -> ModelFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def with_segments(self, *segments: StrPath) -> Path:
        """Paths that are made of this one are plain paths."""
        return Path(*segments)


def path(
    spec: StrPath,
    *,
    dtype: str | None = None,
    quantise: str | None = None,
    only: Sequence[str] = (),
    excluding: Sequence[str] = (),
    dequantise: bool = False,
    adapters: Sequence[str | tuple[str, float] | Adapter] = (),
    overlay: StrPath | None = None,
    base: StrPath | None = None,
    component: str | None = None,
    format: Format | None = None,
    variant: str | None = None,
    revision: str | None = None,
    patterns: Sequence[str] = (),
    hub_cache: StrPath | None = None,
    offline: bool | None = None,
    root: StrPath | None = None,
    progress: ProgressOption = True,
    socket: StrPath | None = None,
    timeout: float | None = None,
    start: bool | None = None,
) -> ModelFolder:
    """A folder that a program opens as a model, all of whose weight files are the shared files.

        pipeline = DiffusionPipeline.from_pretrained(weightsd.path("org/repo", dtype="bf16"), torch_dtype=torch.bfloat16)

    Weights that are wanted as the checkpoint has them are links to its own files. Others are links to an image, which the
    daemon makes once: one safetensors file with exactly the component's tensors. Configs say what the weights are.

    - `format`: `diffusers`, `transformers` (sentence-transformers, too), `mlx` (mlx-lm) or `mflux`. Without it a model
      with a `model_index.json` is for diffusers, and another one for transformers.
    - `quantise` is for format `mlx`. In a pipeline, `adapters` and `overlay` are for `component`: `transformer` unless set.
    - `base`: the model whose configs and tokenizers belong to weights that have none.
    - `root`: where folders are kept; in weightsd's own cache unless set.

    The other arguments are those of `load`.
    """
    model = selector(spec, revision, variant, patterns, hub_cache, offline)
    request = {
        "model": model,
        "component": component or "",
        "client_name": client_name(),
        **treatment(dtype, quantise, only, excluding, dequantise),
        "adapters": [adapter_message(adapter, model) for adapter in adapters],
    }
    if overlay is not None:
        request["overlay"] = beside(model, overlay)
    if base is not None:
        request["base"] = beside(model, base)
    text = json.dumps(request)
    with Watch(os.fspath(spec), progress) as watch:

        def ask(at: str) -> tuple[Path, list[_native.Lease], list[str]]:
            return session().folder(
                text,
                format=format,
                root=None if root is None else os.path.abspath(root),
                socket=at,
                deadline=timeout,
                progress=watch.callback,
                cancel=CANCEL.get(),
            )

        made, leases, said = with_daemon(socket, start, ask)
    for warning in said:
        warnings.warn(warning, stacklevel=2)
    folder = ModelFolder(made)
    folder._leases = leases
    _held[id(folder)] = folder
    return folder

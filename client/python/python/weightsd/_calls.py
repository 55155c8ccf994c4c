"""The calls of the daemon."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from . import _native
from ._card import CardComponent
from ._component import Component
from ._message import M, read
from ._messages import (
    Audit,
    ComponentDetails,
    Eviction,
    Listing,
    PullReport,
    Resolution,
    Status,
    VerifyReport,
    WatchedEvent,
)
from ._progress import ProgressOption, Watch
from ._session import CANCEL, StrPath, session, with_daemon

#: How long one part of a download or of hashing may stay silent, in seconds.
_PATIENCE = 120.0


@dataclass(frozen=True)
class Adapter:
    """A LoRA, LoKr or LoHa: a file, a folder, or an id on the hub; and how much of it."""

    spec: str
    scale: float = 1.0
    #: Which file, where there are several: a glob.
    pattern: str | None = None


def load(
    spec: StrPath,
    component: str = "model",
    *,
    dtype: str | None = None,
    layout: str | None = None,
    quantise: str | None = None,
    only: Sequence[str] = (),
    excluding: Sequence[str] = (),
    dequantise: bool = False,
    adapters: Sequence[str | tuple[str, float] | Adapter] = (),
    merged_plain: bool = False,
    overlay: StrPath | None = None,
    base: StrPath | None = None,
    variant: str | None = None,
    revision: str | None = None,
    patterns: Sequence[str] = (),
    hub_cache: StrPath | None = None,
    offline: bool | None = None,
    verify: bool = False,
    report_only: bool = False,
    keep_alive: float | None = None,
    residency: str | None = None,
    progress: ProgressOption = True,
    socket: StrPath | None = None,
    timeout: float | None = None,
    start: bool | None = None,
) -> Component:
    """Loads a component of a model, or joins a load that is under way, and leases it.

    `spec` is a path, or an id on the hub: `org/repo`, `org/repo@revision`. What is not on this machine is downloaded.

    - `dtype`: `bf16`, `f16`, `f32` or `as-stored`. Without it the family decides: Z-Image comes in BF16, others as stored.
    - `layout`: `mlx` (names and kernels of MLX modules, the default), `source` (as published), `mflux` (as mflux's modules).
    - `quantise`: `affine:4:64` (mode, bits, group size), `mxfp4`, `mxfp8`, `nvfp4`; `only` and `excluding` are globs over
      names of layers. `dequantise` makes quantised layers plain.
    - `adapters`: files or ids, each alone, with a scale, or as an `Adapter`. `merged_plain` leaves quantised layers plain
      that one is merged into.
    - `overlay`: a file whose tensors take the place of the component's. `base`: the model whose configs count for weights
      that have none.
    - `verify` hashes files that were here before first. `report_only` lends in spite of a failed audit.
    - `keep_alive`: seconds for which the component stays warm after the last lease.
    - `residency`: `prefetch` (the daemon reads ahead, the default), `lazy`, or `pinned` (locked in memory, where the daemon's
      `pin_budget` allows it; a notice says why not).
    - `progress`: True shows a bar when it takes long; a function gets each `Progress`. An exception of it ends the load.
    - `timeout`: seconds for which the daemon may stay silent; 120 unless set.
    - `start` starts the installed daemon if none runs; so does `WEIGHTSD_START=1`.
    """
    model = selector(spec, revision, variant, patterns, hub_cache, offline)
    request: dict[str, Any] = {
        "model": model,
        "component": component,
        "client_name": client_name(),
        **treatment(dtype, quantise, only, excluding, dequantise),
        "adapters": [adapter_message(adapter, model) for adapter in adapters],
    }
    if layout is not None:
        request["layout"] = choice("layout", layout, LAYOUTS)
    if merged_plain:
        request["merged_layers"] = "MERGED_LAYERS_PLAIN"
    if overlay is not None:
        request["overlay"] = beside(model, overlay)
    if base is not None:
        request["base"] = beside(model, base)
    if verify:
        request["verification"] = "VERIFICATION_BEFORE"
    if report_only:
        request["audit_policy"] = "AUDIT_POLICY_REPORT_ONLY"
    if keep_alive is not None:
        request["keep_alive"] = f"{keep_alive:.9f}s"
    if residency is not None:
        request["residency"] = choice("residency", residency, RESIDENCIES)
    return lease(request, f"{os.fspath(spec)} {component}", progress, socket, timeout, start)


def lease(
    request: dict[str, Any],
    what: str,
    progress: ProgressOption,
    socket: StrPath | None,
    timeout: float | None,
    start: bool | None,
) -> Component:
    """Sends a load request and waits for the component."""
    text = json.dumps(request)
    with Watch(what, progress) as watch:

        def ask(path: str) -> _native.Lease:
            return session().load(
                text, socket=path, deadline=timeout, progress=watch.callback, cancel=CANCEL.get()
            )

        return Component(with_daemon(socket, start, ask), lambda uuid: on_card(request, uuid, what, socket, timeout))


def on_card(
    request: dict[str, Any], uuid: str, what: str, socket: StrPath | None, timeout: float | None
) -> CardComponent:
    """Sends a load request for the memory of a card, and waits for the component."""
    text = json.dumps({**request, "device": uuid})
    with Watch(f"{what} onto {uuid}", True) as watch:

        def ask(path: str) -> _native.CardLease:
            return session().load_on_card(
                text, socket=path, deadline=timeout, progress=watch.callback, cancel=CANCEL.get()
            )

        return CardComponent(with_daemon(socket, None, ask))


def resolve(
    spec: StrPath,
    *,
    variant: str | None = None,
    revision: str | None = None,
    patterns: Sequence[str] = (),
    hub_cache: StrPath | None = None,
    offline: bool | None = None,
    socket: StrPath | None = None,
    timeout: float | None = None,
    start: bool | None = None,
) -> Resolution:
    """What a spec means now: path, commit, family, components, files. Opens no weight file."""
    model = selector(spec, revision, variant, patterns, hub_cache, offline)
    return call(Resolution, "Resolve", {"model": model}, socket=socket, timeout=timeout, start=start)


def audit(
    spec: StrPath,
    components: Sequence[str] = (),
    *,
    base: StrPath | None = None,
    overlay: StrPath | None = None,
    full: bool = False,
    variant: str | None = None,
    revision: str | None = None,
    patterns: Sequence[str] = (),
    hub_cache: StrPath | None = None,
    offline: bool | None = None,
    socket: StrPath | None = None,
    timeout: float | None = None,
    start: bool | None = None,
) -> Audit:
    """Compares components with what their family says they must hold; all of them unless some are named."""
    model = selector(spec, revision, variant, patterns, hub_cache, offline)
    request: dict[str, Any] = {"model": model, "components": list(components), "full_lists": full}
    if base is not None:
        request["base"] = beside(model, base)
    if overlay is not None:
        request["overlay"] = beside(model, overlay)
    return call(Audit, "Audit", request, socket=socket, timeout=timeout, start=start)


def pull(
    spec: StrPath,
    components: Sequence[str] = (),
    *,
    whole_repository: bool = False,
    variant: str | None = None,
    revision: str | None = None,
    patterns: Sequence[str] = (),
    hub_cache: StrPath | None = None,
    progress: ProgressOption = True,
    socket: StrPath | None = None,
    timeout: float | None = None,
    start: bool | None = None,
) -> PullReport:
    """Downloads the files that a model's components need, and verifies them; everything with `whole_repository`."""
    model = selector(spec, revision, variant, patterns, hub_cache, None)
    request = {"model": model, "components": list(components), "whole_repository": whole_repository}
    with Watch(os.fspath(spec), progress) as watch:
        return call(
            PullReport, "Pull", request, socket=socket, timeout=timeout or _PATIENCE, start=start, watch=watch
        )


def verify(
    spec: StrPath,
    components: Sequence[str] = (),
    *,
    variant: str | None = None,
    revision: str | None = None,
    patterns: Sequence[str] = (),
    hub_cache: StrPath | None = None,
    progress: ProgressOption = True,
    socket: StrPath | None = None,
    timeout: float | None = None,
    start: bool | None = None,
) -> VerifyReport:
    """Compares files with the hashes in their names, without the network."""
    model = selector(spec, revision, variant, patterns, hub_cache, None)
    request = {"model": model, "components": list(components)}
    with Watch(os.fspath(spec), progress) as watch:
        return call(
            VerifyReport, "Verify", request, socket=socket, timeout=timeout or _PATIENCE, start=start, watch=watch
        )


def status(*, socket: StrPath | None = None, timeout: float | None = None, start: bool | None = None) -> Status:
    """How the daemon is: version, limits, work under way."""
    return call(Status, "GetStatus", {}, socket=socket, timeout=timeout, start=start)


def ls(
    *,
    residency: bool = False,
    images: bool = False,
    socket: StrPath | None = None,
    timeout: float | None = None,
    start: bool | None = None,
) -> Listing:
    """What is loaded, and who holds it. `residency` measures how much is in memory; `images` lists what was computed."""
    request = {"residency": residency, "images": images}
    return call(Listing, "ListComponents", request, socket=socket, timeout=timeout, start=start)


def get(
    id: str, *, socket: StrPath | None = None, timeout: float | None = None, start: bool | None = None
) -> ComponentDetails:
    """One loaded component, by its id or the first digits of it, eight at least."""
    return call(ComponentDetails, "GetComponent", {"id": id}, socket=socket, timeout=timeout, start=start)


def evict(
    id: str | None = None,
    *,
    images: bool = False,
    dry_run: bool = False,
    socket: StrPath | None = None,
    timeout: float | None = None,
    start: bool | None = None,
) -> Eviction:
    """Drops a component that nobody holds, or all of them; with `images` also what was computed and nobody holds."""
    request = {"id": id or "", "images": images, "dry_run": dry_run}
    return call(Eviction, "Evict", request, socket=socket, timeout=timeout, start=start)


def events(
    *, follow: bool = False, since: int = 0, socket: StrPath | None = None, start: bool | None = None
) -> Iterator[WatchedEvent]:
    """What happened in the daemon, from number `since` on; with `follow` also what happens from now on, without end."""
    request = json.dumps({"from_sequence": since, "past_only": not follow})
    stream = with_daemon(socket, start, lambda path: session().watch(request, socket=path, cancel=CANCEL.get()))
    return _read_events(stream)


def _read_events(stream: _native.Events) -> Iterator[WatchedEvent]:
    while (text := stream.next(cancel=CANCEL.get())) is not None:
        yield read(WatchedEvent, json.loads(text))


def call(
    answer: type[M],
    method: str,
    request: dict[str, Any],
    *,
    socket: StrPath | None,
    timeout: float | None,
    start: bool | None,
    watch: Watch | None = None,
) -> M:
    """A call that has one answer."""
    text = json.dumps(request)
    callback = watch.callback if watch else None

    def ask(path: str) -> str:
        return session().call(
            method, text, socket=path, deadline=timeout, progress=callback, cancel=CANCEL.get()
        )

    return read(answer, json.loads(with_daemon(socket, start, ask)))


# Requests.

DTYPES = {
    "as-stored": "FLOAT_TYPE_AS_STORED",
    "bf16": "FLOAT_TYPE_BF16",
    "bfloat16": "FLOAT_TYPE_BF16",
    "f16": "FLOAT_TYPE_F16",
    "float16": "FLOAT_TYPE_F16",
    "f32": "FLOAT_TYPE_F32",
    "float32": "FLOAT_TYPE_F32",
}
RESIDENCIES = {"prefetch": "RESIDENCY_PREFETCH", "lazy": "RESIDENCY_LAZY", "pinned": "RESIDENCY_PINNED"}
LAYOUTS = {"mlx": "LAYOUT_MLX", "source": "LAYOUT_SOURCE", "mflux": "LAYOUT_MFLUX"}
_SCHEME = re.compile(r"(affine|mxfp4|mxfp8|nvfp4)(?::(\d+))?(?::(\d+))?")


def choice(what: str, given: object, known: dict[str, str]) -> str:
    """The value of the interface that a word stands for. Dtypes of torch, NumPy and MLX count by their names."""
    word = str(given).removeprefix("torch.").removeprefix("mlx.core.").lower()
    if word not in known:
        raise ValueError(f"{what} {given!r} is unknown: expected one of {', '.join(known)}")
    return known[word]


def selector(
    spec: StrPath,
    revision: str | None,
    variant: str | None,
    patterns: Sequence[str],
    hub_cache: StrPath | None,
    offline: bool | None,
) -> dict[str, Any]:
    """The model, with the facts about this process that the daemon cannot see."""
    if isinstance(patterns, str):
        raise TypeError("patterns is a list of globs, not one string")
    model: dict[str, Any] = json.loads(_native.selector(_spec(spec)))
    model |= {"revision": revision or "", "variant": variant or "", "patterns": list(patterns)}
    if hub_cache is not None:
        model["hub_cache"] = os.path.abspath(hub_cache)
    if offline is not None:
        model["offline"] = offline
    return model


def _spec(spec: StrPath) -> str:
    """A path object is a path, also where its text could be an id: `Path("org/repo")` is `./org/repo`."""
    text = os.fspath(spec)
    return text if isinstance(spec, str) or os.path.isabs(text) else os.path.join(os.curdir, text)


def beside(model: dict[str, Any], spec: StrPath) -> dict[str, Any]:
    """A base, overlay or adapter, which is looked up where `model` is."""
    shared = {name: model[name] for name in ("hub_cache", "working_directory", "offline")}
    return {"spec": _spec(spec), **shared}


def adapter_message(adapter: str | tuple[str, float] | Adapter, model: dict[str, Any]) -> dict[str, Any]:
    if isinstance(adapter, tuple):
        adapter = Adapter(*adapter)
    elif not isinstance(adapter, Adapter):
        adapter = Adapter(adapter)
    message = beside(model, adapter.spec)
    if adapter.pattern is not None:
        message["patterns"] = [adapter.pattern]
    return {"model": message, "scale": adapter.scale}


def treatment(
    dtype: object | None, quantise: str | None, only: Sequence[str], excluding: Sequence[str], dequantise: bool
) -> dict[str, Any]:
    """What is computed."""
    made: dict[str, Any] = {"dequantise": dequantise}
    if dtype is not None:
        made["dtype"] = choice("dtype", dtype, DTYPES)
    if quantise is None and (only or excluding):
        raise ValueError("only and excluding choose layers to quantise: they need quantise")
    if quantise is not None:
        found = _SCHEME.fullmatch(quantise)
        if found is None:
            raise ValueError(f"quantise {quantise!r}: expected MODE[:BITS[:GROUP]], such as affine:4:64 or mxfp4")
        mode, bits, group = found.groups()
        made["quantise"] = {
            "mode": f"QUANTISATION_MODE_{mode.upper()}",
            "bits": int(bits or 0),
            "group_size": int(group or 0),
            "only": list(only),
            "excluding": list(excluding),
        }
    return made


def client_name() -> str:
    """The name of this program in the daemon's lists."""
    return os.path.basename(sys.argv[0] if sys.argv and sys.argv[0] else "") or "python"

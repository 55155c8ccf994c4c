"""Progress of a load, a download or a verification: a bar of tqdm, or a call of the caller's function."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

from ._message import read
from ._messages import Phase, Progress

#: What a caller may say: True for a bar, False or None for nothing, or a function that gets each step.
ProgressOption = bool | Callable[[Progress], object] | None

#: A bar shows up when the work has taken this long, in seconds. A warm load is over before.
DELAY = 0.5

_WORDS = {
    Phase.DOWNLOAD: "downloading",
    Phase.VERIFY: "verifying",
    Phase.DERIVE: "computing",
    Phase.OPEN: "opening",
    Phase.AUDIT: "auditing",
    Phase.RESOLVE: "resolving",
}


class Watch:
    """Hands the steps of one piece of work to the caller's function or to a bar. Use it with `with`."""

    def __init__(self, what: str, progress: ProgressOption) -> None:
        self._what = what
        self._call = progress if callable(progress) else None
        self._bar: Any = None
        self._phase: Phase | None = None
        self._shows = progress is True

    @property
    def callback(self) -> Callable[[str], object] | None:
        """What the compiled half calls; `None` when nobody wants to know."""
        return self._step if self._call or self._shows else None

    def _step(self, text: str) -> None:
        progress = read(Progress, json.loads(text))
        if self._call:
            self._call(progress)
        elif progress.bytes_total:
            self._show(progress)

    def _show(self, progress: Progress) -> None:
        if self._bar is None or progress.phase != self._phase:
            self._close()
            self._phase = progress.phase
            self._bar = _bar(f"{self._what}: {_WORDS.get(progress.phase, str(progress.phase).lower())}", progress)
        self._bar.total = progress.bytes_total
        self._bar.update(progress.bytes_done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()


def _bar(what: str, progress: Progress) -> Any:
    """A bar as tqdm's conventions have it: on standard error, only on a terminal or in a notebook, and not with
    `TQDM_DISABLE`."""
    from tqdm.auto import tqdm

    options: dict[str, Any] = {"unit": "B", "unit_scale": True, "delay": DELAY, "leave": False}
    if "TQDM_DISABLE" not in os.environ:  # An argument would count for more than the variable.
        options["disable"] = False if _in_notebook() else None  # None: unless the output is a terminal.
    return tqdm(desc=what, total=progress.bytes_total, **options)


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    running = shell.get_ipython() if shell is not None else None
    return running is not None and hasattr(running, "kernel")

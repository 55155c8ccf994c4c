"""The same calls for asyncio. Each waits in a thread of its own; cancelling the task ends the wait, and with it a load or
download that nobody else waits for. A progress function is called in that thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

from . import _calls, _folder, _native, _session
from ._messages import WatchedEvent
from ._session import StrPath

P = ParamSpec("P")
R = TypeVar("R")

#: Waits at the same time; more wait for their turn.
_WAITS = 64

_pool: ThreadPoolExecutor | None = None


def _threads() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(_WAITS, thread_name_prefix="weightsd")
    return _pool


def _after_fork() -> None:
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


async def _wait(function: Callable[[], R]) -> R:
    cancel = _native.Cancel()
    context = contextvars.copy_context()
    context.run(_session.CANCEL.set, cancel)
    try:
        return await asyncio.get_running_loop().run_in_executor(_threads(), context.run, function)
    except asyncio.CancelledError:
        cancel.cancel()
        raise


def _twin(function: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    @wraps(function)
    async def twin(*args: P.args, **kwargs: P.kwargs) -> R:
        return await _wait(partial(function, *args, **kwargs))

    return twin


load = _twin(_calls.load)
resolve = _twin(_calls.resolve)
audit = _twin(_calls.audit)
pull = _twin(_calls.pull)
verify = _twin(_calls.verify)
status = _twin(_calls.status)
ls = _twin(_calls.ls)
get = _twin(_calls.get)
evict = _twin(_calls.evict)
path = _twin(_folder.path)


async def events(
    *, follow: bool = False, since: int = 0, socket: StrPath | None = None, start: bool | None = None
) -> AsyncIterator[WatchedEvent]:
    """What happened in the daemon, from number `since` on; with `follow` also what happens from now on, without end."""
    known = await _wait(partial(_calls.events, follow=follow, since=since, socket=socket, start=start))
    while (event := await _wait(partial(next, known, None))) is not None:
        yield event


__all__ = ["audit", "events", "evict", "get", "load", "ls", "path", "pull", "resolve", "status", "verify"]

"""This process's session: the threads and connections of the compiled half, and which daemon they talk to."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

from . import _native, _start
from ._errors import NotRunning

StrPath = str | os.PathLike[str]
T = TypeVar("T")

#: Ends the wait of the current context from another thread; `aio` sets it.
CANCEL: ContextVar[_native.Cancel | None] = ContextVar("weightsd_cancel", default=None)

_lock = threading.Lock()
_session: _native.Session | None = None
#: Sessions of the parent, in a child that `fork` made: their threads are not here, so nothing may end them.
_of_parents: list[_native.Session | None] = []


def session() -> _native.Session:
    """The session of this process, made when it is first needed."""
    global _session
    if _session is None:
        with _lock:
            if _session is None:
                _session = _native.Session()
    return _session


def _after_fork() -> None:
    global _session, _lock
    _of_parents.append(_session)
    _session, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def socket_path(socket: StrPath | None) -> str:
    """The socket that is meant: the one that is named, `WEIGHTSD_SOCKET`, or the usual one of this user."""
    named = os.fspath(socket) if socket is not None else os.environ.get("WEIGHTSD_SOCKET")
    return named or str(_native.socket())


def with_daemon(socket: StrPath | None, start: bool | None, do: Callable[[str], T]) -> T:
    """Calls `do` with the socket. Starts the installed daemon first, if none runs and the caller wants that."""
    path = socket_path(socket)
    try:
        return do(path)
    except NotRunning:
        if not (_start.wanted() if start is None else start):
            raise
    _start.start(path)
    return do(path)

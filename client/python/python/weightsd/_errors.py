"""Exceptions. Each says what happened; `hint` says what can help."""

from __future__ import annotations

import json
from typing import Any

from ._message import read
from ._messages import AuditReport


class WeightsdError(Exception):
    """Something between this process and its weights went wrong.

    `reason` is the daemon's reason (`ErrorReason` of the interface, such as `"AUDIT_FAILED"`), or `None` when the error is
    not the daemon's. Programs may switch on it.
    """

    reason: str | None = None
    #: A step that can help.
    hint: str | None = None
    #: Whether the same request may succeed later without a change.
    retryable: bool = False
    #: Seconds after which to try again, where the hub said so.
    retry_after: float | None = None
    #: Who has to act: `request`, `condition`, `unavailable` or `bug`.
    tier: str | None = None
    #: What the error is about: a path, an id, a tensor.
    resource: str | None = None
    #: The report, when the audit refused the component.
    audit: AuditReport | None = None

    @property
    def message(self) -> str:
        """What happened, without the hint."""
        return str(self.args[0]) if self.args else ""

    def __str__(self) -> str:
        return f"{self.message}; hint: {self.hint}" if self.hint else self.message


class NotRunning(WeightsdError, ConnectionError):
    """No daemon listens. `weightsd serve` starts one; so does `start=True`."""


class CannotConnect(WeightsdError, ConnectionError):
    """There is a socket that this process cannot use, or a daemon of another version."""


class Disconnected(WeightsdError, ConnectionError):
    """The connection broke."""


class TookTooLong(WeightsdError, TimeoutError):
    """The daemon did not answer in time."""


class Refused(WeightsdError):
    """The daemon refused the request, and says why: see `reason`."""


class Cancelled(WeightsdError):
    """Another thread ended the wait."""


class CannotView(WeightsdError, TypeError):
    """A library has no dtype for a tensor. Its bytes are there all the same: `Tensor.memoryview()`."""


_CLASSES: dict[str, type[WeightsdError]] = {
    "not_running": NotRunning,
    "connect": CannotConnect,
    "other_protocol": CannotConnect,
    "deadline": TookTooLong,
    "disconnected": Disconnected,
    "refused": Refused,
}

_START = "start=True, or WEIGHTSD_START=1 in the environment, starts the installed one"


def make(kind: str, text: str, *, audit: str | None = None, **facts: Any) -> WeightsdError:
    """The exception for an error of the compiled half, which calls this."""
    error = _CLASSES.get(kind, WeightsdError)(text)
    for name, value in facts.items():
        setattr(error, name, value)
    if kind == "not_running":
        error.hint = _START
    if audit is not None:
        error.audit = read(AuditReport, json.loads(audit))
    return error

# The compiled half. `stubtest` compares this file with it.
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

__all__ = [
    "PROTOCOL",
    "VERSION",
    "Cancel",
    "CardLease",
    "CardMemory",
    "Events",
    "Files",
    "Lease",
    "Session",
    "capsule",
    "card",
    "descriptors",
    "selector",
    "socket",
]

VERSION: str
PROTOCOL: int

@final
class Cancel:
    def __new__(cls) -> Cancel: ...
    def cancel(self) -> None: ...

@final
class Files:
    def descriptors(self) -> list[tuple[int, int]]: ...

@final
class Lease:
    def info(self) -> str: ...
    def table(self) -> list[tuple[str, str, tuple[int, ...], int, int, int, str]]: ...
    def layers(self) -> list[tuple[str, str, int, int, list[int], str, str, str | None, str | None]]: ...
    def computed(self) -> list[int]: ...
    def files(self) -> Files: ...
    def stands(self) -> bool: ...
    def notices(self) -> list[str]: ...
    def release(self) -> None: ...

@final
class CardMemory:
    def address(self) -> int: ...
    def card(self) -> tuple[str, int]: ...

@final
class CardLease:
    def info(self) -> str: ...
    def table(self) -> list[tuple[str, str, tuple[int, ...], int, int, str]]: ...
    def memory(self) -> CardMemory: ...
    def stands(self) -> bool: ...
    def notices(self) -> list[str]: ...
    def release(self) -> None: ...

@final
class Events:
    def next(self, *, cancel: Cancel | None = None) -> str | None: ...

@final
class Session:
    def __new__(cls) -> Session: ...
    def call(
        self,
        method: str,
        request: str,
        *,
        socket: str | None = None,
        deadline: float | None = None,
        progress: Callable[[str], object] | None = None,
        cancel: Cancel | None = None,
    ) -> str: ...
    def load(
        self,
        request: str,
        *,
        socket: str | None = None,
        deadline: float | None = None,
        progress: Callable[[str], object] | None = None,
        cancel: Cancel | None = None,
    ) -> Lease: ...
    def load_on_card(
        self,
        request: str,
        *,
        socket: str | None = None,
        deadline: float | None = None,
        progress: Callable[[str], object] | None = None,
        cancel: Cancel | None = None,
    ) -> CardLease: ...
    def folder(
        self,
        request: str,
        *,
        format: str | None = None,
        root: str | None = None,
        socket: str | None = None,
        deadline: float | None = None,
        progress: Callable[[str], object] | None = None,
        cancel: Cancel | None = None,
    ) -> tuple[Path, list[Lease], list[str]]: ...
    def watch(self, request: str, *, socket: str | None = None, cancel: Cancel | None = None) -> Events: ...

def selector(spec: str) -> str: ...
def descriptors() -> bytes: ...
def socket() -> Path: ...
def capsule(
    owner: object,
    address: int,
    shape: list[int],
    code: int,
    bits: int,
    *,
    read_only: bool,
    versioned: bool,
    device: tuple[int, int] = ...,
) -> Any: ...
def card(device: str) -> str: ...

"""The files of a component as memory of this process.

Every array lies in a private, writable mapping of a file that other processes map too. The pages are shared until
somebody writes to one; then the writer, and nobody else, gets a copy of it. So arrays look like any others, and a write
in place harms nobody.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
from dataclasses import dataclass

from . import _native

#: The kernel need not set memory aside for pages that hardly anybody writes to. Python 3.10 does not name the flag.
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


@dataclass(frozen=True)
class Copied:
    """A tensor that a library got as a copy, in memory of this process alone."""

    name: str
    nbytes: int
    #: The library: `torch` or `mlx`.
    library: str
    #: Why it is a copy.
    why: str


class Pages:
    """The segments of one component. Arrays keep the mapping that they lie in; the files close with this object."""

    def __init__(self, files: _native.Files) -> None:
        self._files = files
        self._descriptors = files.descriptors()
        self._maps: list[tuple[mmap.mmap, int] | None] = [None] * len(self._descriptors)
        self._lock = threading.Lock()
        self.copies: dict[tuple[str, str], Copied] = {}

    def map(self, segment: int) -> tuple[mmap.mmap, int]:
        """The private mapping of a segment, made when it is first needed, and its address."""
        found = self._maps[segment]
        if found is None:
            with self._lock:
                found = self._maps[segment]
                if found is None:
                    found = self._maps[segment] = self._make(segment)
        return found

    def _make(self, segment: int) -> tuple[mmap.mmap, int]:
        descriptor, length = self._descriptors[segment]
        made = mmap.mmap(
            descriptor, length, flags=mmap.MAP_PRIVATE | _NO_RESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE
        )
        return made, ctypes.addressof(ctypes.c_char.from_buffer(made))

    def copied(self, name: str, nbytes: int, library: str, why: str) -> None:
        self.copies[name, library] = Copied(name, nbytes, library, why)

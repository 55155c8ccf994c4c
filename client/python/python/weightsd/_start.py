"""Starting the installed daemon."""

from __future__ import annotations

import os
import shutil
import socket as sockets
import subprocess
import tempfile
import time

from ._errors import NotRunning, TookTooLong

#: How long a daemon may take until it listens, in seconds.
PATIENCE = 30.0


def wanted() -> bool:
    """Whether the environment asks for a daemon to be started (`WEIGHTSD_START=1`)."""
    return os.environ.get("WEIGHTSD_START", "").lower() in {"1", "true", "yes", "on"}


def program() -> str:
    """The installed program: `WEIGHTSD_BIN`, or `weightsd` on the PATH."""
    found = os.environ.get("WEIGHTSD_BIN") or shutil.which("weightsd")
    if found is None:
        error = NotRunning("no daemon is running, and there is no program `weightsd` on the PATH to start one")
        error.hint = "install it with `cargo install --locked --path .`, or name it in WEIGHTSD_BIN"
        raise error
    return found


def start(path: str) -> None:
    """Starts a daemon that listens on the socket at `path`, and waits until it does.

    It outlives this process. When several processes start one at the same time, one daemon stays: the others find the
    socket taken.
    """
    with tempfile.TemporaryFile() as log:
        command = [program(), "serve", "--socket", path]
        daemon = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
        )
        deadline = time.monotonic() + PATIENCE
        while not _listens(path):
            ended = daemon.poll()
            if ended is not None and not _listens(path):
                log.seek(0)
                said = log.read().decode(errors="replace").strip()
                raise NotRunning(f"the daemon that was started ended with {ended}: {said}")
            if time.monotonic() > deadline:
                daemon.terminate()
                raise TookTooLong(f"the daemon that was started does not listen at {path} after {PATIENCE:.0f} s")
            time.sleep(0.02)


def _listens(path: str) -> bool:
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            return True  # Something is there; the connection proper says what.
        return True

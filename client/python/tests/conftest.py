"""One daemon and a few made models for the whole run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
DEADLINE = 60.0  # Seconds for anything that should take milliseconds.


def program() -> Path:
    named = os.environ.get("WEIGHTSD_BIN")
    found = [Path(named)] if named else [TARGET / "release/weightsd", TARGET / "debug/weightsd"]
    return next((path.absolute() for path in found if path.is_file()), found[0])


class Daemon:
    """The real daemon, in a home of its own."""

    def __init__(
        self, home: Path | None = None, arguments: tuple[str, ...] = (), variables: dict[str, str] | None = None
    ) -> None:
        # Not pytest's directory: a socket's path must be short.
        self.directory = Path(tempfile.mkdtemp(prefix="weightsd-")).resolve()
        self.socket = self.directory / "s"
        self.home = home or self.directory / "home"
        self.home.mkdir(exist_ok=True)
        self.arguments = arguments
        self.variables = variables or {}
        self.log = self.directory / "log"
        self.process = self.run()

    def run(self) -> subprocess.Popen[bytes]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.home), **self.variables}
        if "--hub-endpoint" not in self.arguments:
            environment["HF_HUB_OFFLINE"] = "1"
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [program(), "serve", "--socket", self.socket, *self.arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + DEADLINE
        while not self.listens():
            assert process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)
        return process

    def listens(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(self.socket))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
            return True

    def restart(self, how: signal.Signals = signal.SIGKILL) -> None:
        self.process.send_signal(how)
        self.process.wait(DEADLINE)
        self.process = self.run()

    def end(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE)
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing of the developer's own is used: no daemon, no cache."""
    patch = pytest.MonkeyPatch()
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    patch.delenv("WEIGHTSD_START", raising=False)
    patch.setenv("WEIGHTSD_BIN", str(program()))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def daemon(_own_environment: None) -> Iterator[Daemon]:
    """The daemon that nobody kills. Calls find it by the environment."""
    assert program().is_file(), f"{program()} is missing: cargo build, or set WEIGHTSD_BIN"
    daemon = Daemon()
    patch = pytest.MonkeyPatch()
    patch.setenv("WEIGHTSD_SOCKET", str(daemon.socket))
    yield daemon
    patch.undo()
    daemon.end()


@pytest.fixture
def own_daemon() -> Iterator[Daemon]:
    """A daemon that the test may do anything to."""
    daemon = Daemon()
    yield daemon
    daemon.end()


@pytest.fixture(scope="session")
def z_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small made-up Z-Image. Nobody changes it."""
    return make_checkpoint(tmp_path_factory.mktemp("z-image") / "model")


@pytest.fixture(scope="session")
def all_in_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as one file, as ComfyUI saves it. Nobody changes it."""
    made = make_checkpoint(tmp_path_factory.mktemp("all-in-one") / "model", "--layout", "all-in-one")
    return made / "all-in-one.safetensors"


def make_checkpoint(made: Path, *options: str) -> Path:
    maker = [path for kind in ("release", "debug") if (path := TARGET / kind / "examples/make-checkpoint").is_file()]
    assert maker, "cargo build -p weightsd-fixtures --example make-checkpoint"
    subprocess.run([maker[0], "--size", "tiny", *options, made], check=True, stdout=subprocess.DEVNULL)
    return made.resolve()


def write_safetensors(
    path: Path, tensors: dict[str, tuple[str, list[int], bytes]], metadata: dict[str, str] | None = None
) -> Path:
    """A file with exactly these tensors (dtype, shape, bytes), in this order and without padding between them."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    at, data = 0, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(content)]}
        at += len(content)
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def python(code: str, *arguments: object, **variables: str) -> str:
    """Runs a program in a process of its own. Returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

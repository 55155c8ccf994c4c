"""Waits: progress, exceptions in callbacks, Ctrl-C, cancelled tasks, daemons that are not there."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import DEADLINE, TARGET, Daemon, python

import weightsd


@pytest.fixture
def slow(tmp_path: Path, z_image: Path) -> Iterator[Daemon]:
    """A daemon whose hub sends 20 kB a second of each file of `org/model`."""
    server = next(path for kind in ("release", "debug") if (path := TARGET / kind / "examples/test-hub").is_file())
    command = [server, "--repo", f"org/model={z_image}", "--rate", "20000"]
    hub = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert hub.stdout is not None and hub.stdin is not None
    endpoint = json.loads(hub.stdout.readline())["endpoint"]
    daemon = Daemon(arguments=("--hub-endpoint", endpoint, "--hub-cache", str(tmp_path / "hub")))
    yield daemon
    daemon.end()
    hub.stdin.close()
    hub.wait(DEADLINE)


def load(daemon: Daemon, progress: object) -> weightsd.Component:
    return weightsd.load("org/model", "vae", progress=progress, socket=daemon.socket, offline=False)  # type: ignore[arg-type]


def nobody_loads(daemon: Daemon) -> bool:
    status = weightsd.status(socket=daemon.socket)
    return not status.loads and not status.downloads


def until(condition: object) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_exception_of_the_callback_ends_the_load(slow: Daemon) -> None:
    class Enough(Exception):
        pass

    seen: list[weightsd.Progress] = []

    def stop(progress: weightsd.Progress) -> None:
        seen.append(progress)
        if progress.bytes_done:
            raise Enough

    with pytest.raises(Enough):
        load(slow, stop)
    assert seen[-1].phase.name == "DOWNLOAD" and seen[-1].bytes_total > seen[-1].bytes_done > 0
    until(lambda: nobody_loads(slow))


def test_keyboard_interrupt_in_the_callback_ends_the_load(slow: Daemon) -> None:
    def interrupt(progress: weightsd.Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(slow, interrupt)
    until(lambda: nobody_loads(slow))


INTERRUPTED = """
import sys, weightsd
print("begins", flush=True)
try:
    weightsd.load("org/model", "vae", progress=eval(sys.argv[2]), socket=sys.argv[1], offline=False)
except KeyboardInterrupt:
    print("interrupted", weightsd.status(socket=sys.argv[1]).pid > 0)
"""


@pytest.mark.parametrize("progress", ["False", "True", "lambda step: None"])
def test_ctrl_c_ends_a_download(slow: Daemon, progress: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(slow.socket), progress]
    program = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "0"}
    )
    assert program.stdout is not None and program.stdout.readline() == "begins\n"
    until(lambda: weightsd.status(socket=slow.socket).downloads)
    program.send_signal(signal.SIGINT)
    said, _ = program.communicate(timeout=DEADLINE)
    assert said == "interrupted True\n"
    until(lambda: nobody_loads(slow))


def test_cancelling_a_task_ends_the_load(slow: Daemon) -> None:
    async def story() -> None:
        began = asyncio.Event()
        loop = asyncio.get_running_loop()
        told = lambda step: loop.call_soon_threadsafe(began.set)  # noqa: E731
        task = asyncio.create_task(
            weightsd.aio.load("org/model", "vae", progress=told, socket=slow.socket, offline=False)
        )
        await asyncio.wait_for(began.wait(), DEADLINE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(story())
    until(lambda: nobody_loads(slow))


def test_the_daemon_is_killed_during_a_load(slow: Daemon) -> None:
    def kill(progress: weightsd.Progress) -> None:
        if progress.bytes_done:
            slow.process.kill()

    with pytest.raises(weightsd.Disconnected) as broken:
        load(slow, kill)
    assert broken.value.retryable


def test_a_silent_daemon_is_given_up(tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with pytest.raises(weightsd.TookTooLong, match="took longer than"):
            weightsd.status(socket=tmp_path / "s")


def test_the_twins_of_asyncio_answer_at_the_same_time(daemon: Daemon, z_image: Path) -> None:
    async def story() -> None:
        status, vae, resolution = await asyncio.gather(
            weightsd.aio.status(), weightsd.aio.load(z_image, "vae"), weightsd.aio.resolve(z_image)
        )
        assert status.pid == daemon.process.pid and vae.leased and resolution.family == "z-image"
        past = [event async for event in weightsd.aio.events()]
        assert past
        async for event in weightsd.aio.events(follow=True):
            assert event.event is not None
            break
        with pytest.raises(weightsd.Refused):
            await weightsd.aio.load(z_image, "nothing")

    asyncio.run(story())


def test_events_come_as_they_happen(daemon: Daemon, z_image: Path) -> None:
    last = max(event.event.sequence for event in weightsd.events() if event.event)
    stream = weightsd.events(follow=True, since=last + 1)
    timer = threading.Timer(0.2, lambda: weightsd.load(z_image, "vae").close())
    timer.start()
    event = next(stream).event
    assert event is not None and event.sequence == last + 1
    timer.join()


def test_a_missing_daemon_is_said_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(weightsd.NotRunning) as missing:
        weightsd.load("org/repo", socket=tmp_path / "s")
    assert "start it with `weightsd serve`" in str(missing.value) and "start=True" in str(missing.value)
    assert isinstance(missing.value, ConnectionError) and missing.value.reason is None


def test_a_refusal_has_reason_hint_and_resource(daemon: Daemon, z_image: Path) -> None:
    with pytest.raises(weightsd.Refused) as refused:
        weightsd.load(z_image, "unet")
    error = refused.value
    assert error.reason == "COMPONENT_NOT_FOUND" and error.tier == "request" and not error.retryable
    assert error.hint and error.hint in str(error) and "it has transformer" in error.message


def test_a_failed_audit_comes_with_its_report(daemon: Daemon, z_image: Path, tmp_path: Path) -> None:
    import shutil

    damaged = shutil.copytree(z_image, tmp_path / "model")
    config = damaged / "vae/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"latent_channels": 8}))
    with pytest.raises(weightsd.Refused) as refused:
        weightsd.load(damaged, "vae")
    report = refused.value.audit
    assert refused.value.reason == "AUDIT_FAILED" and report is not None and report.wrong_shape > 0
    assert weightsd.load(damaged, "vae", report_only=True).audit.wrong_shape == report.wrong_shape


STARTED = """
import sys, weightsd
print(weightsd.status(socket=sys.argv[1], start=True if sys.argv[2] == "argument" else None).pid)
"""


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_a_daemon_is_started_when_it_is_wanted(tmp_path: Path, how: str) -> None:
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="weightsd-"))
    variables = {"HOME": str(tmp_path), "WEIGHTSD_START": "1" if how == "environment" else "0"}
    pid = int(python(STARTED, folder / "s", how, **variables))
    try:
        assert weightsd.status(socket=folder / "s").pid == pid, "it outlives the program that started it"
        assert int(python(STARTED, folder / "s", how, **variables)) == pid
    finally:
        os.kill(pid, signal.SIGTERM)


def test_a_daemon_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTSD_BIN", "/bin/false")
    with pytest.raises(weightsd.NotRunning, match="ended with 1"):
        weightsd.status(socket=tmp_path / "s", start=True)
    monkeypatch.delenv("WEIGHTSD_BIN")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(weightsd.NotRunning, match="no program `weightsd` on the PATH"):
        weightsd.status(socket=tmp_path / "s", start=True)


TERMINAL = """
import fcntl, os, pty, struct, sys, termios
child, terminal = pty.fork()
if child == 0:
    fcntl.ioctl(2, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    os.execv(sys.executable, [sys.executable, "-c", sys.argv[1], *sys.argv[2:]])
seen = b""
while True:
    try:
        seen += os.read(terminal, 4096)
    except OSError:
        break
print(seen.decode(errors="replace"))
"""

SHOWN = """
import sys, weightsd
from weightsd._messages import Phase, Progress
from weightsd._progress import Watch
import json, time
with Watch("org/model vae", True) as watch:
    for done in (0, 50, 100):
        watch.callback(json.dumps({"phase": "PHASE_DOWNLOAD", "bytes_done": done, "bytes_total": 100}))
        time.sleep(0.4)
"""


def test_a_bar_shows_on_a_terminal_and_nowhere_else() -> None:
    assert "org/model vae: downloading: " in python(TERMINAL, SHOWN)
    assert "100/100" not in python(TERMINAL, SHOWN, TQDM_DISABLE="1")
    done = subprocess.run([sys.executable, "-c", SHOWN], capture_output=True, text=True, timeout=DEADLINE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

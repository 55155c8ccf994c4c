"""The real weightsd in its own directory, and plain gRPC calls to it."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from google.rpc import status_pb2
from weights.v1 import component_pb2, error_pb2, model_pb2, weights_service_pb2, weights_service_pb2_grpc

TARGET = Path(os.environ.get("CARGO_TARGET_DIR", Path(__file__).parents[2] / "target"))
PROGRAM = Path(os.environ.get("WEIGHTSD_BIN", TARGET / "release/weightsd")).absolute()

# gRPC's core would send the percent-encoded socket path as authority, which HTTP/2 servers written in Rust refuse.
AUTHORITY = ("grpc.default_authority", "localhost")

DEADLINE = 20.0  # Seconds for anything that should take milliseconds.


class Daemon:
    """A running daemon. `home` is the home directory it believes in; one that is given outlives it."""

    def __init__(
        self,
        hub_cache: Path | None = None,
        environment: dict[str, str] | None = None,
        arguments: tuple[str, ...] = (),
        home: Path | None = None,
    ):
        # Not pytest's directory: a socket's path must be short. mkdtemp makes it 0700.
        self.directory = Path(tempfile.mkdtemp(prefix="weightsd-")).resolve()
        self.socket = self.directory / "weightsd.sock"
        self.home = home or self.directory / "home"
        self.home.mkdir(exist_ok=True)
        command = [str(PROGRAM), "serve", "--socket", str(self.socket), *arguments]
        if hub_cache is not None:
            command += ["--hub-cache", str(hub_cache)]
        # Nothing of the caller's environment: its HF_HOME is not what is tested.
        variables = {"PATH": os.environ["PATH"], "HOME": str(self.home), "RUST_BACKTRACE": "1"}
        if not (environment or {}).get("HF_ENDPOINT"):  # No test asks a hub that it did not start.
            variables["HF_HUB_OFFLINE"] = "1"
        self.log = self.directory / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=variables | (environment or {}), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            self._wait_until_it_accepts()
        except BaseException:
            self.kill()
            raise
        self.channel = grpc.insecure_channel(f"unix:{self.socket}", options=[AUTHORITY])
        self.weights = weights_service_pb2_grpc.WeightsServiceStub(self.channel)

    def _wait_until_it_accepts(self) -> None:
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (
                f"weightsd ended with {self.process.returncode}:\n{self.log.read_text()}"
            )
            try:
                self.connect().close()
                return
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.01)
        raise AssertionError(f"weightsd does not accept connections:\n{self.log.read_text()}")

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(DEADLINE)
        try:
            connection.connect(str(self.socket))
        except BaseException:
            connection.close()
            raise
        return connection

    def __enter__(self) -> "Daemon":
        return self

    def __exit__(self, failed, *_) -> None:
        if failed:
            self.kill()
        else:
            self.stop()

    def stop(self) -> None:
        """Asks the daemon to end, and expects it to end well."""
        self.channel.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(DEADLINE)
            assert code == 0, f"weightsd ended with {code} on SIGTERM:\n{self.log.read_text()}"
        finally:
            self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def status(self) -> weights_service_pb2.GetStatusResponse:
        return self.weights.GetStatus(weights_service_pb2.GetStatusRequest(), timeout=DEADLINE)

    def resolve(self, spec: str, **selector: str) -> weights_service_pb2.ResolveResponse:
        model = model_pb2.ModelSelector(spec=spec, **selector)
        return self.weights.Resolve(weights_service_pb2.ResolveRequest(model=model), timeout=DEADLINE)

    def audit(self, spec: str, *components: str) -> weights_service_pb2.AuditResponse:
        request = weights_service_pb2.AuditRequest(model=model_pb2.ModelSelector(spec=spec), components=components)
        return self.weights.Audit(request, timeout=DEADLINE)

    def load(self, spec: str, component: str, **options) -> "Loaded":
        """Asks for a component that nobody holds afterwards; the stream must end by itself."""
        with self.lease(spec, component, hold=component_pb2.HOLD_NONE, **options) as loaded:
            assert list(loaded.stream) == []
        return loaded

    @contextmanager
    def lease(self, spec: str, component: str, **options) -> Iterator["Loaded"]:
        """Holds a component by holding its stream."""
        request = weights_service_pb2.LoadComponentRequest(
            model=model_pb2.ModelSelector(spec=spec), component=component, client_name="pytest", **options
        )
        stream = self.weights.LoadComponent(request, timeout=DEADLINE)
        try:
            yield Loaded.read(stream)
        finally:
            stream.cancel()


@dataclass
class Loaded:
    """What a LoadComponent stream has said up to the last tensor."""

    stream: grpc.Call
    component: component_pb2.Component
    tensors: list[component_pb2.Tensor]

    @classmethod
    def read(cls, stream: grpc.Call) -> "Loaded":
        for message in stream:
            kind = message.WhichOneof("event")
            if kind == "component":
                component = message.component
                break
            assert kind == "progress", f"{kind} before the component"
        else:
            raise AssertionError("the stream ended without a component")
        tensors: list[component_pb2.Tensor] = []
        while len(tensors) < component.tensor_count:
            message = next(stream)
            assert message.WhichOneof("event") == "page", f"{message} before the last tensor"
            tensors += message.page.tensors
        return cls(stream, component, tensors)


def error_detail(error: grpc.RpcError) -> error_pb2.ErrorDetail:
    """The typed detail that every failed call carries."""
    trailers = {item.key: item.value for item in error.trailing_metadata()}
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    (packed,) = status.details
    detail = error_pb2.ErrorDetail()
    assert packed.Unpack(detail), f"unexpected detail {packed.type_url}"
    return detail

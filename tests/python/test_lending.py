"""What is lent is what the checkpoint holds: every tensor, byte by byte, by path and by descriptor."""

import fcntl
import json
import mmap
import os
import socket
import struct
import time
from pathlib import Path

import grpc
import ml_dtypes  # noqa: F401  Teaches numpy, and so safetensors, bfloat16.
import pytest
from checkpoints import TINY, text_encoder_shapes, transformer_shapes, vae_shapes
from daemon import DEADLINE, Daemon, Loaded, error_detail
from derive_judge import in_mlx
from layouts import read_component
from lent import check, check_image, lent
from safetensors import safe_open
from weights.v1 import component_pb2, error_pb2

Layout = component_pb2.Layout
MLX, SOURCE = component_pb2.LAYOUT_MLX, component_pb2.LAYOUT_SOURCE

COMPONENTS = {
    "transformer": (transformer_shapes(TINY.transformer), "F32", 3),
    "text_encoder": (text_encoder_shapes(TINY.text_encoder), "BF16", 3),
    "vae": (vae_shapes(TINY.vae), "BF16", 1),
}

AS_STORED = component_pb2.FLOAT_TYPE_AS_STORED

# The VAE's convolutions have another memory order in MLX, which needs a computation. So do the transformer's numbers,
# which are BF16 in MLX unless they are wished as they are stored.
LENT = [("transformer", MLX), ("transformer", SOURCE), ("text_encoder", MLX), ("text_encoder", SOURCE), ("vae", SOURCE)]


def check_identity(descriptor: int, identity: component_pb2.FileIdentity) -> None:
    stat = os.fstat(descriptor)
    assert (stat.st_dev, stat.st_ino, stat.st_size) == (identity.device, identity.inode, identity.length)
    assert (stat.st_mtime_ns, stat.st_ctime_ns) == (identity.modified_ns, identity.changed_ns)


def check_tensors(loaded: Loaded, descriptors: list[int], files: list[Path]) -> None:
    """Compares everything that is lent with what safetensors reads from the source files."""
    source = {}
    for file in files:
        with safe_open(file, framework="np") as opened:
            for name in opened.keys():  # noqa: SIM118  It is no dict.
                source[name] = (opened.get_slice(name).get_dtype(), opened.get_tensor(name))

    names = [tensor.name for tensor in loaded.tensors]
    assert names == sorted(set(names)), "names come sorted, each once"
    assert sorted(tensor.source_name or tensor.name for tensor in loaded.tensors) == sorted(source)
    assert sum(tensor.length for tensor in loaded.tensors) == loaded.component.tensor_bytes
    mapped = [mmap.mmap(descriptor, 0, mmap.MAP_SHARED, mmap.PROT_READ) for descriptor in descriptors]
    for tensor in loaded.tensors:
        dtype, values = source[tensor.source_name or tensor.name]
        assert (tensor.dtype, tuple(tensor.shape)) == (dtype, values.shape), tensor.name
        lent = mapped[tensor.segment][tensor.offset : tensor.offset + tensor.length]
        assert lent == values.tobytes(), tensor.name
    for segment in mapped:
        segment.close()


def weight_files(model: Path, component: str) -> list[Path]:
    return sorted((model / component).glob("*.safetensors"))


def receive_descriptors(connection: socket.socket, ticket: bytes) -> tuple[int, list[int]]:
    """The hand-off protocol, from its description in core/src/handoff.rs: the status and the descriptors."""

    def receive(count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = connection.recv(count - len(data))
            assert part, "the daemon hung up"
            data += part
        return data

    connection.sendall(b"\xd5\x01" + ticket)
    status, reserved, count = struct.unpack("<BBH", receive(4))
    assert reserved == 0
    descriptors: list[int] = []
    while len(descriptors) < count:
        data, batch, flags, _ = socket.recv_fds(connection, 1, 64, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
        descriptors += batch
        assert not flags & socket.MSG_CTRUNC
        assert list(data) == [len(batch)], "one byte says how many come with it"
        connection.sendall(b"\x06")
    assert len(descriptors) == count
    return status, descriptors


def eventually(condition) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_status(daemon: Daemon, hub):
    status = daemon.status()
    assert status.pid == daemon.process.pid
    assert status.socket == str(daemon.socket)
    assert status.hub_cache == str(hub[0])
    assert status.version


def test_resolve(daemon: Daemon, model: Path):
    response = daemon.resolve(str(model))
    assert response.model.path == str(model)
    assert response.family == "z-image"
    found = {c.name: ({f.path: f.length for f in c.files}, c.problem) for c in response.components}
    assert found == {
        name: ({file.relative_to(model).as_posix(): file.stat().st_size for file in weight_files(model, name)}, "")
        for name in COMPONENTS
    }


def test_audit(daemon: Daemon, model: Path):
    reports = {report.component: report for report in daemon.audit(str(model)).reports}
    assert reports.keys() == COMPONENTS.keys()
    for name, (shapes, dtype, _) in COMPONENTS.items():
        report = reports[name]
        assert report.clean
        assert (report.expected, report.matched) == (len(shapes), len(shapes))
        assert (report.missing, report.extra, report.wrong_shape, report.wrong_dtype) == (0, 0, 0, 0)
        assert [(count.dtype, count.tensors) for count in report.dtypes] == [(dtype, len(shapes))]
        assert list(report.remarks) == []


@pytest.mark.parametrize(("name", "layout"), LENT, ids=lambda v: v if isinstance(v, str) else Layout.Name(v))
def test_lent_by_path(daemon: Daemon, model: Path, name, layout):
    shapes, _, shards = COMPONENTS[name]
    loaded = daemon.load(str(model), name, layout=layout, dtype=AS_STORED)
    component = loaded.component
    assert (component.name, component.family, component.layout) == (name, "z-image", layout)
    assert component.tensor_count == len(shapes)
    assert component.computed_bytes == 0
    assert component.audit.clean
    config = json.loads(component.config_json)
    source = json.loads((model / name / "config.json").read_text())
    if "dtype" in config:  # Newer transformers write `dtype`, the published file `torch_dtype`; weightsd reads both.
        config["torch_dtype"] = config.pop("dtype")
    assert {key: value for key, value in source.items() if key in config} == config
    assert (component.lease.id, component.lease.ticket) == (0, b""), "nothing is held"
    assert len(component.segments) == shards

    descriptors = [os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC) for segment in component.segments]
    for descriptor, segment in zip(descriptors, component.segments, strict=True):
        check_identity(descriptor, segment.identity)
    check_tensors(loaded, descriptors, weight_files(model, name))
    for descriptor in descriptors:
        os.close(descriptor)


def test_lent_by_descriptor(daemon: Daemon, model: Path):
    with (
        daemon.lease(str(model), "transformer", dtype=AS_STORED) as loaded,
        daemon.connect() as connection,
    ):
        status, descriptors = receive_descriptors(connection, loaded.component.lease.ticket)
        assert status == 0
        for descriptor, segment in zip(descriptors, loaded.component.segments, strict=True):
            check_identity(descriptor, segment.identity)
            assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
            with pytest.raises(PermissionError):
                mmap.mmap(descriptor, 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        check_tensors(loaded, descriptors, weight_files(model, "transformer"))
        for descriptor in descriptors:
            os.close(descriptor)


def test_a_wrong_ticket_gets_nothing(daemon: Daemon, model: Path):
    with (
        daemon.lease(str(model), "transformer", dtype=AS_STORED) as loaded,
        daemon.connect() as connection,
    ):
        assert receive_descriptors(connection, os.urandom(16)) == (1, [])
        # The connection is still good for the right one.
        status, descriptors = receive_descriptors(connection, loaded.component.lease.ticket)
        assert (status, len(descriptors)) == (0, 3)
        for descriptor in descriptors:
            os.close(descriptor)


def test_a_ticket_ends_with_its_stream(daemon: Daemon, model: Path):
    with daemon.lease(str(model), "transformer") as loaded:
        ticket = loaded.component.lease.ticket
        assert len(ticket) == 16
        assert daemon.status().leases == 1

    def refused() -> bool:
        with daemon.connect() as connection:
            status, descriptors = receive_descriptors(connection, ticket)
        for descriptor in descriptors:
            os.close(descriptor)
        return (status, descriptors) == (1, [])

    eventually(refused)
    eventually(lambda: daemon.status().leases == 0)


def test_holders_share_one_component(daemon: Daemon, model: Path):
    with daemon.lease(str(model), "text_encoder") as one, daemon.lease(str(model), "text_encoder") as two:
        assert one.component.id == two.component.id
        assert two.component.warm
        assert (one.component.leases, two.component.leases) == (1, 2)
        assert one.component.lease.ticket != two.component.lease.ticket
        assert one.component.segments == two.component.segments


def failure(call) -> tuple[grpc.StatusCode, str, error_pb2.ErrorDetail]:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    detail = error_detail(raised.value)
    return raised.value.code(), error_pb2.ErrorReason.Name(detail.reason), detail


def test_an_unknown_repository_is_not_found(daemon: Daemon):
    code, reason, detail = failure(lambda: daemon.load("nobody/nothing", "transformer"))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "ERROR_REASON_REPO_NOT_CACHED")
    assert "nobody/nothing" in detail.resource
    assert detail.hint


def test_the_vae_in_mlx_layout_is_computed_and_lent_by_descriptor_too(daemon: Daemon, model: Path):
    expected = in_mlx("vae", read_component(model / "vae"))
    with daemon.lease(str(model), "vae") as loaded, daemon.connect() as connection:
        check(lent(loaded), expected)
        check_image(loaded)
        status, descriptors = receive_descriptors(connection, loaded.component.lease.ticket)
        assert status == 0
        for descriptor, segment in zip(descriptors, loaded.component.segments, strict=True):
            check_identity(descriptor, segment.identity)
            with pytest.raises(PermissionError):
                mmap.mmap(descriptor, 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        for tensor in loaded.tensors:
            found = os.pread(descriptors[tensor.segment], tensor.length, tensor.offset)
            assert found == expected[tensor.name].tobytes(), tensor.name
        for descriptor in descriptors:
            os.close(descriptor)


def test_an_unknown_component_is_not_found(daemon: Daemon, model: Path):
    code, reason, detail = failure(lambda: daemon.load(str(model), "decoder"))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "ERROR_REASON_COMPONENT_NOT_FOUND")
    assert "decoder" in detail.resource

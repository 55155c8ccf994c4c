"""The standard services, and what a gRPC client must say to be heard on a Unix socket."""

import grpc
import pytest
from daemon import AUTHORITY, DEADLINE, Daemon
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICE = "weights.v1.WeightsService"


def health(channel: grpc.Channel, service: str = ""):
    return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE)


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health(daemon: Daemon, service: str):
    assert health(daemon.channel, service).status == health_pb2.HealthCheckResponse.SERVING


def test_reflection(daemon: Daemon):
    """Python's reflection client asks by v1alpha; grpcurl, in .ci/grpcurl, by v1."""
    database = ProtoReflectionDescriptorDatabase(daemon.channel)
    assert SERVICE in database.get_services()
    (service,) = database.FindFileContainingSymbol(SERVICE).service
    assert "LoadComponent" in [method.name for method in service.method]


@pytest.mark.parametrize("scheme", ["unix:", "unix://"])
def test_the_authority_must_be_set(daemon: Daemon, scheme: str):
    """Without the option, gRPC's core sends the escaped socket path, and HTTP/2 in Rust refuses that."""
    target = f"{scheme}{daemon.socket}"
    with grpc.insecure_channel(target) as channel, pytest.raises(grpc.RpcError) as raised:
        health(channel)
    assert raised.value.code() == grpc.StatusCode.INTERNAL
    with grpc.insecure_channel(target, options=[AUTHORITY]) as channel:
        health(channel)

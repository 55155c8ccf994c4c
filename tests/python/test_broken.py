"""Checkpoints that are not what they should be."""

import json
from pathlib import Path

import grpc
import ml_dtypes  # noqa: F401  Teaches numpy, and so safetensors, bfloat16.
import numpy as np
import pytest
from checkpoints import write_directory
from daemon import Daemon, error_detail
from safetensors.numpy import load_file, save_file
from weights.v1 import audit_pb2, component_pb2, error_pb2

REPORT_ONLY = audit_pb2.AUDIT_POLICY_REPORT_ONLY
SOURCE = component_pb2.LAYOUT_SOURCE


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A model of its own for each test to break."""
    return write_directory(tmp_path / "z-image").resolve()


def rewrite_vae(model: Path, change) -> None:
    file = model / "vae/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def refusal(daemon: Daemon, model: Path, component: str) -> error_pb2.ErrorDetail:
    with pytest.raises(grpc.RpcError) as raised:
        daemon.load(str(model), component, layout=SOURCE)
    return error_detail(raised.value)


def test_a_missing_tensor_is_refused_by_name(daemon: Daemon, broken: Path):
    rewrite_vae(broken, lambda tensors: tensors.pop("decoder.conv_out.bias"))
    detail = refusal(daemon, broken, "vae")
    assert detail.reason == error_pb2.ERROR_REASON_AUDIT_FAILED
    assert (detail.audit.missing, list(detail.audit.missing_sample)) == (1, ["decoder.conv_out.bias"])
    (report,) = daemon.audit(str(broken), "vae").reports
    assert (report.clean, report.missing, report.matched) == (False, 1, report.expected - 1)
    lent = daemon.load(str(broken), "vae", layout=SOURCE, audit_policy=REPORT_ONLY)
    assert len(lent.tensors) == report.matched


def test_a_wrong_shape_is_refused_by_name(daemon: Daemon, broken: Path):
    name = "decoder.conv_in.weight"  # As some tools save it: OHWI instead of OIHW.
    rewrite_vae(broken, lambda tensors: tensors.update({name: np.ascontiguousarray(np.moveaxis(tensors[name], 1, 3))}))
    detail = refusal(daemon, broken, "vae")
    assert detail.reason == error_pb2.ERROR_REASON_AUDIT_FAILED
    assert detail.audit.wrong_shape == 1
    assert [mismatch.name for mismatch in detail.audit.wrong_shape_sample] == [name]


def test_an_extra_tensor_is_reported_and_lends(daemon: Daemon, broken: Path):
    rewrite_vae(broken, lambda tensors: tensors.update(stowaway=np.zeros(3, np.float32)))
    audit = daemon.load(str(broken), "vae", layout=SOURCE).component.audit
    assert (audit.clean, audit.extra, list(audit.extra_sample)) == (True, 1, ["stowaway"])


def test_a_missing_shard_is_named(daemon: Daemon, broken: Path):
    shard = "transformer/diffusion_pytorch_model-00002-of-00003.safetensors"
    (broken / shard).unlink()
    components = {component.name: component for component in daemon.resolve(str(broken)).components}
    assert [file.path for file in components["transformer"].files if not file.present] == [shard]
    assert components["transformer"].problem
    assert not components["vae"].problem
    detail = refusal(daemon, broken, "transformer")
    assert detail.reason == error_pb2.ERROR_REASON_SNAPSHOT_INCOMPLETE
    daemon.load(str(broken), "text_encoder")  # What is whole is lent.


def test_an_index_that_lies_is_refused(daemon: Daemon, broken: Path):
    file = broken / "transformer/diffusion_pytorch_model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"]["layers.99.attention.to_q.weight"] = index["weight_map"]["x_pad_token"]
    file.write_text(json.dumps(index))
    assert refusal(daemon, broken, "transformer").reason == error_pb2.ERROR_REASON_INDEX_MISMATCH


@pytest.mark.parametrize("length", [0, 7, 8, 100, -1])
def test_a_truncated_file_is_refused(daemon: Daemon, broken: Path, length: int):
    file = broken / "vae/diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    assert refusal(daemon, broken, "vae").reason == error_pb2.ERROR_REASON_INVALID_CHECKPOINT


def test_a_replaced_file_is_another_component(daemon: Daemon, broken: Path):
    before = daemon.load(str(broken), "vae", layout=SOURCE).component
    rewrite_vae(broken, lambda tensors: tensors["decoder.conv_out.bias"].fill(1))
    after = daemon.load(str(broken), "vae", layout=SOURCE).component
    assert before.id != after.id
    assert not after.warm

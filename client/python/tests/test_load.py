"""What a program sees of a component."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Daemon, write_safetensors

import weightsd


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one file, with lists in its names."""
    tensors = {
        "layers.0.weight": ("F32", [2, 2], bytes(range(16))),
        "layers.1.weight": ("F32", [2, 2], bytes(range(16, 32))),
        "norm": ("F32", [2], bytes(8)),
    }
    folder = tmp_path_factory.mktemp("small") / "model"
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def held_by(id: str) -> int:
    listed = [component for component in weightsd.ls().components if component.id == id]
    return len(listed[0].holders) if listed else 0


def until(condition) -> None:  # type: ignore[no-untyped-def]
    import time

    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_component_is_a_mapping_of_tensors(daemon: Daemon, small: Path) -> None:
    component = weightsd.load(small)
    assert list(component) == ["layers.0.weight", "layers.1.weight", "norm"]
    assert len(component) == 3 and "norm" in component and "other" not in component
    tensor = component["layers.1.weight"]
    assert (tensor.dtype, tensor.shape, tensor.nbytes, tensor.ndim) == ("F32", (2, 2), 16, 2)
    assert bytes(tensor.memoryview()) == bytes(range(16, 32))
    assert component.name == "model" and component.family == "generic" and len(component.id) == 64
    assert component.model.path == str(small)
    assert component.nbytes == 40 and component.info.tensor_count == 3
    with pytest.raises(KeyError):
        component["other"]
    assert "3 tensors" in repr(component) and "Tensor('norm', F32, [2])" in repr(component["norm"])


def test_the_lease_ends_with_the_block_and_tensors_stay(daemon: Daemon, small: Path) -> None:
    with weightsd.load(small) as component:
        assert component.leased and held_by(component.id) == 1
        before = component["norm"]
    assert not component.leased
    until(lambda: held_by(component.id) == 0)
    component.close()
    # Nothing was mapped before the end.
    assert bytes(before.memoryview()) == bytes(8)
    assert bytes(component["layers.0.weight"].memoryview()) == bytes(range(16))


def test_the_lease_ends_with_the_garbage_also_in_a_circle(daemon: Daemon, small: Path) -> None:
    component = weightsd.load(small)
    id, tensor = component.id, component["norm"]
    circle: list[object] = [component]
    circle.append(circle)
    del component, circle
    gc.collect()
    until(lambda: held_by(id) == 0)
    assert bytes(tensor.memoryview()) == bytes(8)


def test_names_with_numbers_are_lists_in_the_tree(daemon: Daemon, small: Path) -> None:
    component = weightsd.load(small)
    tree = component.tree()
    assert tree["layers"][1]["weight"] is component["layers.1.weight"]
    leaves = component.tree(weightsd.Tensor.numpy)
    assert leaves["norm"].tolist() == [0, 0]


def test_a_tree_is_refused_where_a_name_begins_another(daemon: Daemon, tmp_path: Path) -> None:
    tensors = {"a": ("U8", [1], b"1"), "a.b": ("U8", [1], b"2"), "7": ("U8", [1], b"3")}
    component = weightsd.load(write_safetensors(tmp_path / "x.safetensors", tensors))
    with pytest.raises(weightsd.WeightsdError, match="'a.b' cannot be in a tree"):
        component.tree()


def test_a_family_gives_its_layout_audit_and_config(daemon: Daemon, z_image: Path) -> None:
    vae = weightsd.load(z_image, "vae")
    assert vae.family == "z-image" and vae.audit.clean and vae.config["latent_channels"] == 16
    source = weightsd.load(z_image, "vae", layout="source")
    name = "decoder.conv_in.weight"
    out, width, height, inner = vae[name].shape
    assert source[name].shape == (out, inner, width, height)
    assert vae.report().computed > 0 and source.report().computed == 0


def test_what_is_computed_can_be_said(daemon: Daemon, z_image: Path) -> None:
    component = weightsd.load(z_image, "transformer", quantise="affine:8:32", keep_alive=1.5)
    layers = component.quantised
    assert layers, "some layers of the tiny model have whole groups"
    layer = next(iter(layers.values()))
    assert str(layer.scheme) == "affine:8:32" and layer.weight.dtype == "U32" and layer.biases is not None
    assert layer.shape[1] == layer.weight.shape[1] * 4 == layer.scales.shape[1] * 32
    assert component.info.lease is not None and component.info.lease.keep_alive is not None
    assert component.info.lease.keep_alive.total_seconds() == 1.5
    plain = weightsd.load(z_image, "transformer", dtype="f32")
    assert {tensor.dtype for tensor in plain.values()} == {"F32"}


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"dtype": "int8"}, "dtype 'int8' is unknown: expected one of as-stored, bf16"),
        ({"layout": "nchw"}, "layout 'nchw' is unknown"),
        ({"quantise": "gptq"}, "quantise 'gptq': expected MODE"),
        ({"only": ["a"]}, "they need quantise"),
        ({"timeout": -1}, "no number of seconds"),
    ],
)
def test_a_wrong_wish_is_said_before_anything_is_asked(wrong: dict[str, object], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        weightsd.load("org/repo", **wrong)  # type: ignore[arg-type]


def test_a_path_object_is_a_path(daemon: Daemon, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small.parent)
    assert weightsd.load(Path("model")).model.path == str(small)
    with pytest.raises(weightsd.Refused) as refused:
        weightsd.load("someone/something")
    assert refused.value.reason == "REPO_NOT_CACHED", refused.value


def test_messages_print_what_is_set(daemon: Daemon, small: Path) -> None:
    resolution = weightsd.resolve(small)
    text = str(resolution)
    assert text.startswith("Resolution\n") and f"path: {small}" in text and "family: generic" in text
    assert "commit" not in text, "what is empty is not shown"
    assert "<table>" in resolution._repr_html_() and str(small) in resolution._repr_html_()
    assert "3 tensors lie in shared pages" in str(weightsd.load(small).report())


def test_every_call_has_its_answer(daemon: Daemon, small: Path, z_image: Path) -> None:
    status = weightsd.status()
    assert status.pid == daemon.process.pid and status.protocol == 1 and status.started is not None
    audits = weightsd.audit(z_image, ["vae"])
    assert [report.component for report in audits.reports] == ["vae"] and audits.reports[0].clean
    verdicts = weightsd.verify(small, progress=False).verdicts
    assert [verdict.finding.name for verdict in verdicts] == ["UNVERIFIABLE"]
    component = weightsd.load(small)
    assert weightsd.get(component.id[:8]).component.holders[0].pid > 0  # type: ignore[union-attr]
    kept = weightsd.evict(dry_run=True)
    assert [outcome.evicted for outcome in kept.outcomes if outcome.id == component.id] == [False]
    kinds = {event.event.kind.name for event in weightsd.events() if event.event}
    assert {"LOADED", "LEASED"} <= kinds
    assert isinstance(weightsd.ls(images=True, residency=True).images, tuple)


def test_an_answer_of_a_later_daemon_can_be_read() -> None:
    from weightsd._message import read
    from weightsd._messages import Notice

    notice = read(Notice, {"kind": 99, "message": "x", "unheard_of": 1})
    assert (notice.kind.name, notice.message) == ("UNKNOWN_99", "x")


def test_the_messages_are_those_of_the_interface() -> None:
    generator = Path(__file__).parents[1] / "generate_messages.py"
    subprocess.run([sys.executable, generator, "--check"], check=True)

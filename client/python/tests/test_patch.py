"""`weightsd.patch`: what it takes, what it leaves alone, and how it is taken back."""

from __future__ import annotations

import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import DEADLINE, Daemon, write_safetensors

import weightsd

safetensors = pytest.importorskip("safetensors")
st = pytest.importorskip("safetensors.torch")
sn = pytest.importorskip("safetensors.numpy")
torch = pytest.importorskip("torch")
mx = pytest.importorskip("mlx.core")


@pytest.fixture(autouse=True)
def _unpatched() -> Iterator[None]:
    yield
    weightsd.unpatch()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    tensors = {
        "z": ("BF16", [2, 3], bytes(range(12))),
        "a": ("F32", [4], bytes(range(16))),
        "e": ("F32", [0], b""),
    }
    return write_safetensors(folder / "model.safetensors", tensors, {"format": "pt"})


def comes_through(daemon: Daemon, do: object) -> bool:
    def requests() -> int:
        return sum(component.requests for component in weightsd.ls().components)

    before = requests()
    do()  # type: ignore[operator]
    return requests() > before


def test_safe_open_has_the_same_answers(daemon: Daemon, file: Path) -> None:
    with safetensors.safe_open(file, "pt") as plain:
        weightsd.patch()
        with safetensors.safe_open(file, framework="pt", device="cpu") as ours:
            assert type(ours) is not type(plain)
            assert list(ours.keys()) == list(plain.keys()) and ours.offset_keys() == plain.offset_keys()
            assert ours.metadata() == plain.metadata() == {"format": "pt"}
            for name in plain.keys():
                assert torch.equal(ours.get_tensor(name), plain.get_tensor(name))
                ours_slice, theirs = ours.get_slice(name), plain.get_slice(name)
                assert ours_slice.get_shape() == theirs.get_shape() and ours_slice.get_dtype() == theirs.get_dtype()
            assert torch.equal(ours.get_slice("z")[:, 1:], plain.get_slice("z")[:, 1:])
            assert ours.get_tensors().keys() == plain.get_tensors().keys()
            with pytest.raises(safetensors.SafetensorError, match="does not contain tensor x"):
                ours.get_tensor("x")


def test_what_was_bound_before_is_patched_and_comes_back(daemon: Daemon, file: Path) -> None:
    bound = types.ModuleType("somebody")
    bound.safe_open, bound.load = safetensors.safe_open, mx.load  # type: ignore[attr-defined]
    sys.modules["somebody"] = bound
    originals = safetensors.safe_open, mx.load
    try:
        weightsd.patch()
        weightsd.patch()
        assert comes_through(daemon, lambda: st.load_file(file))
        assert comes_through(daemon, lambda: bound.load(str(file)))
        assert bound.safe_open is safetensors.safe_open is not originals[0]
        weightsd.unpatch()
        assert (safetensors.safe_open, mx.load) == originals == (bound.safe_open, bound.load)
        assert not comes_through(daemon, lambda: st.load_file(file))
    finally:
        del sys.modules["somebody"]


def test_mlx_load_gives_the_same_dictionary(daemon: Daemon, file: Path) -> None:
    plain, metadata = mx.load(str(file), return_metadata=True)
    weightsd.patch()
    ours, said = mx.load(str(file), return_metadata=True)
    assert said == metadata and ours.keys() == plain.keys()
    assert all(mx.array_equal(ours[name], plain[name]) for name in plain)
    assert mx.load(str(file)).keys() == plain.keys()


def test_each_opening_has_pages_of_its_own(daemon: Daemon, file: Path) -> None:
    weightsd.patch()
    first = st.load_file(file)
    first["a"].fill_(9)
    assert st.load_file(file)["a"].tolist() != first["a"].tolist()


def test_what_the_daemon_does_not_lend_is_read_as_before(daemon: Daemon, file: Path, tmp_path: Path) -> None:
    weightsd.patch()
    alone = tmp_path / "x.npz"
    mx.savez(str(alone), a=mx.array([1, 2]))
    assert mx.load(str(alone))["a"].tolist() == [1, 2]
    # A file that is no part of a model's weights: another set lies beside it.
    st.save_file({"b": torch.ones(2)}, tmp_path / "model/optimizer.safetensors")
    assert st.load_file(tmp_path / "model/optimizer.safetensors")["b"].tolist() == [1, 1]
    with pytest.raises(FileNotFoundError):
        st.load_file(tmp_path / "nothing.safetensors")


def test_names_that_the_family_changes_are_those_of_the_file(daemon: Daemon, all_in_one: Path) -> None:
    plain, metadata = mx.load(str(all_in_one), return_metadata=True)
    assert any(name.endswith("attention.qkv.weight") for name in plain), "it is lent as q, k and v"
    tensors = st.load_file(all_in_one)
    weightsd.patch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert comes_through(daemon, lambda: mx.load(str(all_in_one)))
        ours, said = mx.load(str(all_in_one), return_metadata=True)
        assert comes_through(daemon, lambda: st.load_file(all_in_one))
        taken = st.load_file(all_in_one)
    assert said == metadata and ours.keys() == plain.keys()
    for name, array in plain.items():
        # Random weights hold NaNs, which equal nothing.
        assert ours[name].dtype == array.dtype and mx.array_equal(ours[name], array, equal_nan=True), name
    assert taken.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert taken[name].dtype == tensor.dtype and taken[name].shape == tensor.shape, name
        assert torch.equal(taken[name].view(torch.uint8), tensor.view(torch.uint8)), name


def test_a_refusal_is_said_once(daemon: Daemon, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weightsd._patch._homes", {str(file): (str(file.parent), ["unet"])})
    monkeypatch.setattr("weightsd._patch._warned", set())
    weightsd.patch()
    with pytest.warns(UserWarning, match="model.safetensors is read without it: .*unet"):
        assert mx.load(str(file)).keys() == {"z", "a", "e"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mx.load(str(file)).keys() == {"z", "a", "e"}


def test_a_file_of_which_all_is_computed_is_read_with_one_warning(
    daemon: Daemon, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is lent of such a component are other files, such as an image.
    other = write_safetensors(tmp_path / "image.safetensors", {"a": ("F32", [1], bytes(4))})
    monkeypatch.setattr("weightsd._patch._homes", {str(file): (str(other), ["model"])})
    monkeypatch.setattr("weightsd._patch._warned", set())
    weightsd.patch()
    with pytest.warns(UserWarning, match="model.safetensors is read without it: all that.*is computed"):
        assert st.load_file(file)["a"].shape == (4,)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mx.load(str(file))["a"].shape == (4,)


def test_without_a_daemon_one_warning_is_given(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTSD_SOCKET", str(tmp_path / "s"))
    monkeypatch.setattr("weightsd._patch._warned", set())
    weightsd.patch()
    with pytest.warns(UserWarning, match="no daemon is running.*files are read without it"):
        assert st.load_file(file)["a"].shape == (4,)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mx.load(str(file))["a"].shape == (4,)


def test_the_command_says_how_it_is_used() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "weightsd", "run", "--help"], capture_output=True, text=True, timeout=DEADLINE
    )
    assert "python -m weightsd run [-m] PROGRAM" in done.stdout
    module = [sys.executable, "-m", "weightsd", "run", "-m", "json.tool", "--help"]
    assert "usage: " in subprocess.run(module, capture_output=True, text=True, timeout=DEADLINE).stdout

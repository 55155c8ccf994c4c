"""Tensors as arrays of other libraries: the values of safetensors, and no copy where none is claimed."""

from __future__ import annotations

import gc
import struct
import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from conftest import Daemon, write_safetensors

import weightsd
from weightsd._dtypes import DTYPES

safetensors = pytest.importorskip("safetensors")
torch = pytest.importorskip("torch")
mx = pytest.importorskip("mlx.core")

#: Every dtype, with bytes that are different numbers in each. Rows of 8 elements, so that all are whole bytes.
WIDTHS = {name: dtype.bits for name, dtype in DTYPES.items()}


def content(dtype: str, elements: int) -> bytes:
    if dtype == "BOOL":
        return bytes([0, 1, 1, 0] * (elements // 4))
    length = elements * WIDTHS[dtype] // 8
    return bytes((7 * index + 1) % 251 for index in range(length))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tensors = {dtype: (dtype, [3, 8], content(dtype, 24)) for dtype in sorted(DTYPES, key=lambda name: -WIDTHS[name])}
    tensors["scalar"] = ("F32", [], struct.pack("<f", 2.5))
    tensors["empty"] = ("F32", [0, 4], b"")
    return write_safetensors(tmp_path_factory.mktemp("dtypes") / "all.safetensors", tensors)


@pytest.fixture(scope="module")
def component(daemon: Daemon, file: Path) -> weightsd.Component:
    return weightsd.load(file)


def same(ours: Any, theirs: Any) -> bool:
    return bool(np.array_equal(np.asarray(ours).view(np.uint8), np.asarray(theirs).view(np.uint8)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy_has_what_safetensors_gives(component: weightsd.Component, file: Path, dtype: str) -> None:
    tensor = component[dtype]
    if DTYPES[dtype].numpy is None:
        with pytest.raises(weightsd.CannotView, match=f"is {dtype}, for which NumPy has no dtype"):
            tensor.numpy()
        return
    array = tensor.numpy()
    assert array.shape == (3, 8) and array.nbytes == tensor.nbytes
    assert bytes(array.view(np.uint8).ravel()) == content(dtype, 24)
    assert array.__array_interface__["data"] == (tensor.address, False), "in place, and writable"
    with safetensors.safe_open(file, "np") as plain:
        try:
            theirs = plain.get_tensor(dtype)
        except (TypeError, KeyError, safetensors.SafetensorError, AttributeError):
            return  # Its numpy side has no such dtype; the bytes were compared.
    assert same(array, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_has_what_safetensors_gives(component: weightsd.Component, file: Path, dtype: str) -> None:
    tensor = component[dtype]
    if DTYPES[dtype].torch is None:
        with pytest.raises(weightsd.CannotView):
            tensor.torch()
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Such as torch's about memory that is only for reading.
        ours = tensor.torch()
    assert ours.data_ptr() == tensor.address
    with safetensors.safe_open(file, "pt") as plain:
        theirs = plain.get_tensor(dtype)
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    assert torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))


@pytest.mark.parametrize("dtype", DTYPES)
def test_mlx_has_what_its_own_load_gives(
    component: weightsd.Component, daemon: Daemon, tmp_path: Path, dtype: str
) -> None:
    alone = write_safetensors(tmp_path / "x.safetensors", {"x": (dtype, [3, 8], content(dtype, 24))})
    try:
        theirs = mx.load(str(alone))["x"]
    except RuntimeError:
        if dtype == "F64":  # MLX has it, and does not load it.
            assert component[dtype].mlx().tolist() == component[dtype].numpy().tolist()
            return
        with pytest.raises(weightsd.CannotView):
            component[dtype].mlx()
        return
    ours = component[dtype].mlx()
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    assert mx.array_equal(ours.view(mx.uint8), theirs.view(mx.uint8))


@pytest.mark.parametrize("dtype", [name for name, dtype in DTYPES.items() if dtype.dlpack is not None])
def test_dlpack_gives_the_same_memory(component: weightsd.Component, dtype: str) -> None:
    tensor = component[dtype]
    taken = torch.from_dlpack(tensor)
    assert taken.data_ptr() == tensor.address
    assert torch.equal(taken.view(torch.uint8), tensor.torch().view(torch.uint8))
    copied = torch.from_dlpack(tensor, copy=True)
    assert copied.data_ptr() != tensor.address and torch.equal(copied.view(torch.uint8), taken.view(torch.uint8))


def test_dlpack_keeps_the_pages(daemon: Daemon, file: Path) -> None:
    component = weightsd.load(file)
    taken = np.from_dlpack(component["F32"])
    capsule = component["F32"].__dlpack__()
    assert "dltensor" in repr(capsule) and "versioned" not in repr(capsule)
    assert "dltensor_versioned" in repr(component["F32"].__dlpack__(max_version=(1, 0)))
    expected = taken.tolist()
    component.close()
    del component, capsule
    gc.collect()
    assert taken.tolist() == expected


def test_dlpack_says_what_it_cannot(component: weightsd.Component) -> None:
    assert component["F32"].__dlpack_device__() == (1, 0)
    with pytest.raises(BufferError, match="no stream"):
        component["F32"].__dlpack__(stream=1)
    with pytest.raises(BufferError, match="not on device"):
        component["F32"].__dlpack__(dl_device=(2, 0))
    with pytest.raises(BufferError, match="no dtype for F4"):
        component["F4"].__dlpack__()


def test_scalars_and_empty_tensors_have_their_shapes(component: weightsd.Component) -> None:
    assert component["scalar"].numpy().shape == () and component["scalar"].torch().item() == 2.5
    assert component["scalar"].mlx().item() == 2.5
    for array in (component["empty"].numpy(), component["empty"].torch(), component["empty"].mlx()):
        assert tuple(array.shape) == (0, 4)
    assert component["empty"].address == 0 and bytes(component["empty"].memoryview()) == b""
    assert torch.from_dlpack(component["empty"]).shape == (0, 4)


def test_asarray_takes_a_tensor_as_it_is(component: weightsd.Component) -> None:
    for dtype in ("F32", "BF16", "F8_E4M3"):
        array = component[dtype].__array__()
        assert array.__array_interface__["data"][0] == component[dtype].address
    assert component["BF16"].numpy().dtype == ml_dtypes.bfloat16
    assert component["F32"].__array__(np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="needs a copy"):
        component["F32"].__array__(np.float64, copy=False)
    assert component["F32"].__array__(copy=True).__array_interface__["data"][0] != component["F32"].address


def test_writing_in_place_is_this_processs_own_business(daemon: Daemon, file: Path) -> None:
    component, other = weightsd.load(file), weightsd.load(file)
    before, on_disk = component["F32"].numpy().copy(), file.read_bytes()
    component["F32"].torch().fill_(7)
    assert (component["F32"].numpy() == 7).all(), "one memory for all libraries of one component"
    assert same(other["F32"].numpy(), before)
    assert file.read_bytes() == on_disk


def test_a_misaligned_tensor_is_copied_for_torch_and_the_report_says_so(daemon: Daemon, tmp_path: Path) -> None:
    tensors = {"a": ("U8", [1], b"x"), "b": ("F32", [2], struct.pack("<2f", 1, 2))}
    # As published, because in layout MLX the daemon lends an aligned copy.
    component = weightsd.load(write_safetensors(tmp_path / "x.safetensors", tensors), layout="source")
    assert component["b"].numpy().tolist() == [1, 2] and not component["b"].numpy().flags.aligned
    assert "nothing was copied" in str(component.report())
    assert component["b"].torch().tolist() == [1, 2]
    assert component["b"].mlx().tolist() == [1, 2]
    report = component.report()
    assert [(copy.name, copy.nbytes, copy.library) for copy in report.copied] == [("b", 8, "torch"), ("b", 8, "mlx")]
    assert report.copied_bytes == 16 and "1 for torch: misaligned" in str(report)
    component["b"].torch()
    assert len(component.report().copied) == 2, "a tensor is counted once for each library"


def test_another_device_is_a_copy_that_is_counted(daemon: Daemon, file: Path) -> None:
    component = weightsd.load(file)
    assert component["F32"].torch("cpu").data_ptr() == component["F32"].address
    assert component["F32"].torch("meta").device.type == "meta"
    assert [copy.why for copy in component.report().copied] == ["asked for on another device"]


def test_whole_components_are_dictionaries_of_arrays(daemon: Daemon, z_image: Path) -> None:
    vae = weightsd.load(z_image, "vae")
    assert vae.torch().keys() == vae.numpy().keys() == vae.mlx().keys() == vae.keys()
    assert [name for name, _ in vae.mlx_module_weights()] == list(vae)
    name = "decoder.conv_in.weight"
    assert same(vae.mlx()[name].astype(mx.float32), vae[name].torch().float().numpy())


def test_the_buffer_protocol_gives_bytes(component: weightsd.Component) -> None:
    assert component["BF16"].memoryview().nbytes == 48 == len(component["BF16"].memoryview())
    assert bytes(component["F4"].memoryview()) == content("F4", 24)
    import sys

    if sys.version_info >= (3, 12):
        assert bytes(memoryview(component["U8"])) == content("U8", 24)

"""Components in the memory of a card, with the stand-in for NVIDIA's driver: its memory is memory of this process, too, so it
can be read at the addresses that kernels would use."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import DEADLINE, TARGET, Daemon, write_safetensors

import weightsd

TENSORS = {
    "b": ("BF16", [3, 5], bytes(range(30))),
    "a": ("F32", [7], bytes(range(100, 128))),
    "scalar": ("F64", [], bytes(8)),
    "empty": ("F32", [0, 4], b""),
    "bytes": ("U8", [300], bytes(index % 251 for index in range(300))),
}
CUDA = 2


class Machine:
    """A daemon on a machine with two cards."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    def cards(self) -> list[object]:
        return list(weightsd.status(socket=self.daemon.socket).cards)

    def load(self, file: Path) -> weightsd.Component:
        return weightsd.load(file, socket=self.daemon.socket, layout="source", keep_alive=0, progress=False)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    places = [TARGET / "debug" / part / "libweightsd_gpu_stand_in.so" for part in (".", "deps")]
    library = next((place for place in places if place.is_file()), None)
    if library is None:
        pytest.fail("the stand-in for the driver is missing: cargo build -p weightsd-gpu-stand-in")
    variables = {"WEIGHTSD_CUDA_LIBRARY": str(library), "WEIGHTSD_STAND_IN": str(tmp_path_factory.mktemp("cards"))}
    patch = pytest.MonkeyPatch()
    for name, value in variables.items():
        patch.setenv(name, value)
    daemon = Daemon(variables=variables)
    yield Machine(daemon)
    daemon.end()
    patch.undo()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_safetensors(tmp_path_factory.mktemp("file") / "model.safetensors", TENSORS)


def until(condition: object) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_tensors_lie_on_the_card_with_the_bytes_of_the_file(machine: Machine, file: Path) -> None:
    component = machine.load(file)
    with component.on_card("cuda:1") as on_card:
        assert (on_card.device, on_card.id, set(on_card)) == ("cuda:1", component.id, set(TENSORS))
        for name, (dtype, shape, content) in TENSORS.items():
            tensor = on_card[name]
            assert (tensor.dtype, list(tensor.shape), tensor.nbytes) == (dtype, shape, len(content))
            assert tensor.address % 256 == 0 and bool(tensor.address) == bool(content)
            assert ctypes.string_at(tensor.address, tensor.nbytes) == content
            assert tensor.__dlpack_device__() == (CUDA, 1)
        assert "on cuda:1" in repr(on_card) and on_card.leased
        assert machine.cards()[0].device == on_card.uuid  # type: ignore[attr-defined]
    assert not on_card.leased
    component.close()


def test_a_view_keeps_the_memory_and_the_last_one_gives_it_back(machine: Machine, file: Path) -> None:
    component = machine.load(file)
    on_card = component.on_card()
    tensor = on_card["b"]
    capsule = tensor.__dlpack__(max_version=(1, 1))
    address = tensor.address
    on_card.close()
    component.close()
    del on_card, component, tensor
    gc.collect()
    weightsd.evict(socket=machine.daemon.socket)
    until(lambda: any(card.departed for card in machine.cards()))  # type: ignore[attr-defined]
    assert ctypes.string_at(address, 30) == TENSORS["b"][2]
    del capsule
    gc.collect()
    until(lambda: not machine.cards())


def test_dlpack_says_where_it_is_and_refuses_what_it_cannot_give(machine: Machine, file: Path) -> None:
    component = machine.load(file)
    on_card = component.on_card("cuda:1")
    with pytest.raises(BufferError, match="card 1, not on device"):
        on_card["a"].__dlpack__(dl_device=(1, 0))
    with pytest.raises(BufferError, match="copy the array"):
        on_card["a"].__dlpack__(copy=True)
    capsule = on_card["a"].__dlpack__(dl_device=(CUDA, 1))
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    at = get(capsule, b"dltensor")
    assert ctypes.c_void_p.from_address(at).value == on_card["a"].address
    assert [ctypes.c_int32.from_address(at + place).value for place in (8, 12, 16)] == [CUDA, 1, 1]
    with pytest.raises(weightsd.CannotView, match="MLX cannot use memory of a card"):
        on_card.mlx()


def test_a_card_that_is_not_there_is_refused_with_those_that_are(machine: Machine, file: Path) -> None:
    component = machine.load(file)
    for device in ("cuda:2", "cuda:x", "GPU-00000000-0000-0000-0000-000000000000"):
        with pytest.raises(weightsd.WeightsdError, match="there is no card .* only GPU-57a4d140"):
            component.on_card(device)

"""What a client of another language sees of a component: every tensor at its place in the files, and the derived image
as other readers of safetensors files see it."""

import json
import mmap
import os

import mlx.core as mx
import numpy as np
from daemon import Loaded
from layouts import DTYPES, Tensors, same
from safetensors import safe_open
from weights.v1 import component_pb2

PAGE = 16 * 1024
ROOM = "__weightsd_room__."
COMPUTED = component_pb2.TENSOR_OPERATION_COMPUTED
CHECKPOINT, DERIVED = component_pb2.SEGMENT_KIND_CHECKPOINT, component_pb2.SEGMENT_KIND_DERIVED


def lent(loaded: Loaded) -> Tensors:
    """Every tensor at its place in the files."""
    files = []
    for segment in loaded.component.segments:
        descriptor = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        assert os.fstat(descriptor).st_ino == segment.identity.inode
        files.append(mmap.mmap(descriptor, 0, mmap.MAP_SHARED, mmap.PROT_READ))
        os.close(descriptor)
    return {
        tensor.name: np.frombuffer(
            files[tensor.segment][tensor.offset : tensor.offset + tensor.length], DTYPES[tensor.dtype]
        ).reshape(tuple(tensor.shape))
        for tensor in loaded.tensors
    }


def check(found: Tensors, expected: Tensors) -> None:
    """Names, types, shapes and bytes; numbers that compare equal are not enough, and NaNs have to."""
    assert found.keys() == expected.keys()
    differing = [name for name in expected if not same(found[name], expected[name])]
    assert differing == [], "\n".join(difference(name, found[name], expected[name]) for name in differing[:8])


def difference(name: str, found: np.ndarray, expected: np.ndarray) -> str:
    """The first element that differs, in bits."""
    if (found.dtype, found.shape) != (expected.dtype, expected.shape):
        return f"{name}: {found.dtype}{found.shape}, expected {expected.dtype}{expected.shape}"
    bits, wanted = bits_of(found), bits_of(expected)
    places = np.flatnonzero(bits != wanted)
    first = int(places[0])
    count = f"{places.size} of {bits.size} elements of {expected.dtype}{expected.shape}"
    return f"{name}: {count}, first [{first}] {int(bits[first]):#x}, expected {int(wanted[first]):#x}"


def bits_of(values: np.ndarray) -> np.ndarray:
    """The same bytes as unsigned integers, in one row."""
    return np.ascontiguousarray(values).reshape(-1).view(f"u{values.itemsize}")


def check_image(loaded: Loaded) -> None:
    """The image holds what is computed and nothing else, at pages, and other readers find the bytes that are lent."""
    component = loaded.component
    computed = {tensor.name: tensor for tensor in loaded.tensors if tensor.operation == COMPUTED}
    for tensor in loaded.tensors:
        kind = DERIVED if tensor.name in computed else CHECKPOINT
        assert component.segments[tensor.segment].kind == kind, tensor.name
    assert component.computed_bytes == sum(tensor.length for tensor in computed.values())
    assert component.HasField("image") == bool(computed)
    if not computed:
        return
    image = component.image
    assert [segment.path for segment in component.segments if segment.kind == DERIVED] == [image.path]
    assert (image.component_id, image.component) == (component.id, component.name)
    assert image.bytes == os.path.getsize(image.path) and image.bytes % PAGE == 0
    check_places(image.path, computed)
    pages = lent(loaded)
    check_readers(image.path, {name: pages[name] for name in computed}, component)


def check_places(path: str, computed: dict[str, component_pb2.Tensor]) -> None:
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    names = {name for name in header if name != "__metadata__" and not name.startswith(ROOM)}
    assert names == computed.keys()
    for name, tensor in computed.items():
        begin, end = (8 + length + offset for offset in header[name]["data_offsets"])
        assert (begin, end) == (tensor.offset, tensor.offset + tensor.length), name
        assert begin % PAGE == 0, name


def check_readers(path: str, expected: Tensors, component: component_pb2.Component) -> None:
    """safetensors, for numpy and for MLX, and MLX itself."""
    with safe_open(path, framework="np") as opened:
        metadata = opened.metadata()
        names = [name for name in opened.keys() if not name.startswith(ROOM)]  # noqa: SIM118  It is no dict.
        check({name: opened.get_tensor(name) for name in names}, expected)
    assert metadata["format"] == "mlx"
    assert (metadata["weightsd.id"], metadata["weightsd.component"]) == (component.id, component.name)
    assert metadata["weightsd.conversion"] == component.image.conversion
    assert metadata["weightsd.mlx"] == mx.__version__
    arrays, found = mx.load(path, return_metadata=True)
    assert found == metadata
    check({name: numpy(value) for name, value in arrays.items() if not name.startswith(ROOM)}, expected)
    with safe_open(path, framework="mlx") as opened:
        check({name: numpy(opened.get_tensor(name)) for name in names}, expected)


NAMES = {
    mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16", mx.bool_: "BOOL", mx.int64: "I64", mx.int32: "I32",
    mx.int16: "I16", mx.int8: "I8", mx.uint64: "U64", mx.uint32: "U32", mx.uint16: "U16", mx.uint8: "U8",
}  # fmt: skip
KINDS = {np.dtype(DTYPES[name]): kind for kind, name in NAMES.items()}
WORDS = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint64}


def numpy(array: mx.array) -> np.ndarray:
    """The bytes of an array of MLX. As integers, since nobody promises that NaNs stay as they are in a conversion."""
    kind = np.dtype(DTYPES[NAMES[array.dtype]])
    return np.array(array.reshape([array.size]).view(WORDS[kind.itemsize])).view(kind).reshape(array.shape)


def array(values: np.ndarray) -> mx.array:
    """The same bytes as an array of MLX."""
    return mx.array(bits_of(values)).view(KINDS[values.dtype]).reshape(values.shape)

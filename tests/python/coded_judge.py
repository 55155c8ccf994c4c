"""What torch, and ComfyUI's own code (`comfy-kitchen`, its eager backend), make of layers in formats that MLX does not have.

Each layer comes with its numbers in F32: those are what weightsd rounds once, to the dtype that is wanted. Where the judge
adds in an order of its own (a rotation is a product of matrices in F32), `plain` is rounded once from the exact sum, and
`judged`, what the judge makes of it, is met within `bound`."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import torch
from comfy_kitchen.backends.eager import quantization
from comfy_kitchen.backends.eager.convrot_w4a4 import dequantize_convrot_w4a4_weight
from comfy_kitchen.float_utils import to_blocked
from layouts import Tensors

E4M3, E5M2, E8M0 = (np.dtype(kind) for kind in (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.float8_e8m0fnu))
BF16 = np.dtype(ml_dtypes.bfloat16)
TORCH = {E4M3: torch.float8_e4m3fn, E5M2: torch.float8_e5m2, E8M0: torch.float8_e8m0fnu, BF16: torch.bfloat16}
H4 = np.array([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]])
# Zeros, subnormals, the least and the largest numbers, infinities, a NaN, and an ordinary one.
SCALES = np.array([0.0, -0.0, 1e-45, 1e-39, 1.1754944e-38, 3.4e38, np.inf, -np.inf, np.nan, 0.0123, -7.3, 2.0**-7], np.float32)


@dataclass
class Coded:
    """A layer: its tensors by suffix, its mark, and the numbers that it stands for."""

    tensors: Tensors
    plain: np.ndarray
    mark: dict = field(default_factory=dict)
    judged: np.ndarray | None = None  # By a judge that adds in another order, in F32.
    bound: float = 0.0  # How far the judge may be away, as a share of the largest number of the row.

    def under(self, layer: str, padding: int = 0) -> Tensors:
        """The tensors with their names, the mark padded with NUL bytes."""
        named = {f"{layer}.{suffix}": values for suffix, values in self.tensors.items()}
        if self.mark:
            text = json.dumps(self.mark).encode() + bytes(padding)
            named[f"{layer}.comfy_quant"] = np.frombuffer(text, np.uint8)
        return named


def tensor(values: np.ndarray) -> torch.Tensor:
    """The same bytes as a tensor of torch."""
    kind = TORCH.get(values.dtype)
    if kind is None:
        return torch.from_numpy(values.copy())
    plain = np.uint16 if values.dtype == BF16 else np.uint8
    return torch.from_numpy(values.view(plain).copy()).view(kind)


def codes(seed: int, shape: tuple[int, ...], kind: np.dtype) -> np.ndarray:
    """Every code, and then any."""
    random = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    flat = random.reshape(-1)
    flat[: min(256, flat.size)] = np.arange(256, dtype=np.uint8)[: flat.size]
    return random.view(kind)


def normal(seed: int, shape: tuple[int, ...], scale: float = 0.01) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def fp8(seed: int, kind: np.dtype, scales: np.ndarray, names: tuple[str, str], mark: dict, shape=(24, 160)) -> Coded:
    weight = codes(seed, shape, kind)
    with np.errstate(all="ignore"):
        spread = scales.reshape(-1, 1) if scales.size > 1 else scales
        plain = (tensor(weight).to(torch.float32) * tensor(spread).to(torch.float32)).numpy()
    return Coded({"weight": weight, names[0]: scales, names[1]: np.array(1, np.float32)}, plain, mark)


def cast(seed: int, kind: np.dtype, shape=(24, 160)) -> Coded:
    weight = codes(seed, shape, kind)
    return Coded({"weight": weight}, tensor(weight).to(torch.float32).numpy())


def int8(seed: int, scales: np.ndarray, mark: dict) -> Coded:
    weight = codes(seed, (24, 160), np.dtype(np.int8))
    plain = quantization.dequantize_int8_simple(tensor(weight), tensor(scales).to(torch.float32)).numpy()
    return Coded({"weight": weight, "weight_scale": scales}, plain, mark)


def turned_back(values: np.ndarray, scales: np.ndarray, columns: int) -> np.ndarray:
    """Codes times the rotation, exactly, times the scale, rounded to F32 once."""
    matrix = H4
    while matrix.shape[0] < columns:
        matrix = np.kron(matrix, H4)
    groups = values.astype(np.int64).reshape(values.shape[0], -1, columns)
    sums = (groups @ matrix).reshape(values.shape).astype(np.float64) / columns**0.5
    with np.errstate(all="ignore"):
        return (sums * scales.astype(np.float64).reshape(-1, 1)).astype(np.float32)


def convrot(seed: int, columns: int, named: bool = True) -> Coded:
    weight = codes(seed, (24, 4 * columns), np.dtype(np.int8))
    scales = normal(seed + 1, (24, 1))
    mark = {"format": "int8_tensorwise", "convrot": True} | ({"convrot_groupsize": columns} if named else {})
    judged = quantization.dequantize_int8_convrot_weight(tensor(weight), tensor(scales), columns).numpy()
    plain = turned_back(weight, scales, columns)
    return Coded({"weight": weight, "weight_scale": scales}, plain, mark, judged, 1e-5)


def convrot_w4a4(seed: int, columns: int) -> Coded:
    random = np.random.default_rng(seed).integers(-7, 8, (24, 4 * columns), np.int8)
    packed = ((random[:, 0::2] & 0xF) | (random[:, 1::2] << 4)).astype(np.int8)
    scales = normal(seed + 1, (24,))
    judged = dequantize_convrot_w4a4_weight(tensor(packed), tensor(scales), columns).numpy()
    mark = {"format": "convrot_w4a4", "params": {"convrot_groupsize": columns, "convrot": True}}
    return Coded({"weight": packed, "weight_scale": scales}, turned_back(random, scales, columns), mark, judged, 1e-5)


def nvfp4(seed: int, rows: int, columns: int, global_scale: float) -> Coded:
    padded = (-(-rows // 16) * 16, -(-columns // 16) * 16)
    weight = codes(seed, (padded[0], padded[1] // 2), np.dtype(np.uint8))
    scales = codes(seed + 1, (padded[0], padded[1] // 16), E4M3)
    blocked = to_blocked(tensor(scales).view(torch.uint8), flatten=False)
    second = np.array(global_scale, np.float32)
    plain = quantization.dequantize_nvfp4(
        tensor(weight), tensor(second), blocked.view(torch.float8_e4m3fn), torch.float32
    ).numpy()
    tensors = {"weight": weight, "weight_scale": blocked.numpy().view(E4M3), "weight_scale_2": second}
    return Coded(tensors, np.ascontiguousarray(plain[:rows, :columns]), {"format": "nvfp4"})


def mxfp8(seed: int, rows: int, columns: int, kind: np.dtype = E8M0) -> Coded:
    weight = codes(seed, (rows, columns), E4M3)
    # 0 stands for zero, and 255 for infinity.
    scales = np.random.default_rng(seed).integers(90, 150, (rows, columns // 32), np.uint8)
    scales.reshape(-1)[:4] = (0, 1, 254, 255)
    blocked = to_blocked(tensor(scales), flatten=False)
    plain = quantization.dequantize_mxfp8(tensor(weight), blocked, torch.float32).numpy()
    tensors = {"weight": weight, "weight_scale": blocked.numpy().view(kind)}
    return Coded(tensors, plain, {"format": "mxfp8"})


def awq(seed: int, kind: np.dtype = BF16) -> Coded:
    weight = codes(seed, (24, 128), np.dtype(np.int8))
    scales, zeros = (normal(seed + at, (4, 24)).astype(kind) for at in (1, 2))
    wide = torch.stack([tensor(weight) & 0xF, tensor(weight) >> 4 & 0xF], dim=-1).reshape(24, 256).to(torch.float32)
    groups = wide.reshape(24, 4, 64) - 8.0
    spread = [tensor(values).to(torch.float32).t().unsqueeze(-1) for values in (scales, zeros)]
    plain = (groups * spread[0] + spread[1]).reshape(24, 256).numpy()
    tensors = {"weight": weight, "weight_scale": scales, "weight_zeros": zeros}
    return Coded(tensors, plain, {"format": "awq_w4a16", "group_size": 64})


def powers(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Scales that are powers of two: the least, ordinary ones, the largest, and no number."""
    scales = np.random.default_rng(seed).integers(90, 150, shape, np.uint8)
    edges = np.array([0, 1, 254, 255], np.uint8)
    scales.reshape(-1)[: min(4, scales.size)] = edges[: scales.size]
    return scales.view(E8M0)


def blocks(
    seed: int, rows: int, columns: int, kind: np.dtype, suffix: str = "weight_scale_inv", block: tuple[int, int] = (128, 128)
) -> Coded:
    weight = codes(seed, (rows, columns), E4M3)
    shape = (-(-rows // block[0]), -(-columns // block[1]))
    scales = powers(seed, shape) if kind == E8M0 else normal(seed + 1, shape).astype(kind)
    tall = tensor(scales).to(torch.float32).repeat_interleave(block[0], 0)[:rows]
    spread = tall.repeat_interleave(block[1], 1)[:, :columns]
    plain = (tensor(weight).to(torch.float32) * spread).numpy()
    return Coded({"weight": weight, suffix: scales}, plain)


def rounded(plain: np.ndarray, kind: np.dtype) -> np.ndarray:
    """Rounded once, by torch."""
    kinds = {np.dtype(np.float32): torch.float32, np.dtype(np.float16): torch.float16, BF16: torch.bfloat16}
    found = tensor(plain).to(kinds[kind])
    return found.view(torch.uint16).numpy().view(kind) if kind == BF16 else found.numpy()


NEW, OLD = ("weight_scale", "input_scale"), ("scale_weight", "scale_input")
E4, E5 = {"format": "float8_e4m3fn", "full_precision_matrix_mult": True}, {"format": "float8_e5m2"}
TENSORWISE = {"format": "int8_tensorwise"}

# Each in a file of its own kind: what is scaled and what is a plain cast do not stand in one file.
FORMATS: dict[str, Callable[[], Coded]] = {
    "e4m3 scalar": lambda: fp8(1, E4M3, np.array(0.0123, np.float32), NEW, E4),
    "e4m3 one": lambda: fp8(2, E4M3, np.array([0.0123], np.float32), NEW, E4),
    "e4m3 rows": lambda: fp8(3, E4M3, np.resize(SCALES, (24, 1)), NEW, E4),
    "e4m3 rows flat": lambda: fp8(4, E4M3, np.resize(SCALES, (24,)), NEW, E4),
    "e4m3 bf16 scale": lambda: fp8(5, E4M3, np.array(0.0123, BF16), NEW, E4),
    "e4m3 unmarked": lambda: fp8(6, E4M3, np.array(0.0123, np.float32), NEW, {}),
    "e4m3 subnormal": lambda: fp8(7, E4M3, np.array(1e-39, np.float32), NEW, E4),
    "e4m3 early": lambda: fp8(8, E4M3, np.array(0.0123, np.float32), OLD, {}),
    "e5m2 scalar": lambda: fp8(9, E5M2, np.array(0.5, np.float32), NEW, E5),
    "e5m2 rows": lambda: fp8(10, E5M2, np.resize(SCALES, (24, 1)), NEW, E5),
    "e4m3 blocks": lambda: blocks(11, 300, 200, np.dtype(np.float32)),
    "e4m3 blocks bf16": lambda: blocks(12, 256, 384, BF16),
    "e4m3 blocks e8m0": lambda: blocks(34, 300, 200, E8M0),
    "e4m3 scale blocks": lambda: blocks(35, 300, 200, np.dtype(np.float32), "scale"),
    "e4m3 scale blocks e8m0": lambda: blocks(36, 256, 384, E8M0, "scale"),
    "e4m3 scale groups e8m0": lambda: blocks(37, 24, 160, E8M0, "scale", (1, 32)),
    "e4m3 scale rows": lambda: fp8(38, E4M3, np.resize(SCALES, (24, 1)), ("scale", "input_scale"), {}),
    "e5m2 scale one": lambda: fp8(39, E5M2, np.array(0.0123, np.float32), ("scale", "input_scale"), {}),
    "int8 one": lambda: int8(13, np.array(0.0123, np.float32), TENSORWISE),
    "int8 rows": lambda: int8(14, np.resize(SCALES, (24, 1)), TENSORWISE | {"convrot": False}),
    "int8 rows bf16": lambda: int8(15, normal(3, (24, 1)).astype(BF16), TENSORWISE),
    "convrot 256": lambda: convrot(16, 256),
    "convrot 256 unsaid": lambda: convrot(17, 256, named=False),
    "convrot 64": lambda: convrot(18, 64),
    "convrot 4": lambda: convrot(19, 4),
    "w4a4 256": lambda: convrot_w4a4(20, 256),
    "w4a4 16": lambda: convrot_w4a4(21, 16),
    "nvfp4": lambda: nvfp4(22, 128, 256, 0.0123),
    "nvfp4 small": lambda: nvfp4(23, 16, 32, 1e-30),
    "nvfp4 large": lambda: nvfp4(24, 384, 1088, 3.7),
    "mxfp8": lambda: mxfp8(25, 128, 256),
    "mxfp8 in bytes": lambda: mxfp8(26, 160, 320, np.dtype(np.uint8)),
    "awq": lambda: awq(27),
    "awq f32": lambda: awq(28, np.dtype(np.float32)),
}
CASTS: dict[str, Callable[[], Coded]] = {
    "cast e4m3": lambda: cast(30, E4M3),
    "cast e5m2": lambda: cast(31, E5M2),
    "cast norm": lambda: cast(32, E4M3, (300,)),
    "cast kernel": lambda: cast(33, E5M2, (4, 3, 3, 9)),
}

"""What a component should become, computed by Python's MLX in the order that `core/src/derive/job.rs` gives:
dequantise, add in F32, cast, reorder, quantise. Nothing here knows the daemon."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import ml_dtypes
import mlx.core as mx
import numpy as np
from layouts import Tensors
from lent import array, numpy
from weights.v1 import component_pb2

BF16, F16, F32 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16), np.dtype(np.float32)
FLOATS = (F32, F16, BF16)
KINDS = {BF16: mx.bfloat16, F16: mx.float16, F32: mx.float32}

AS_STORED = component_pb2.FLOAT_TYPE_AS_STORED
WISHES = {
    BF16: component_pb2.FLOAT_TYPE_BF16,
    F16: component_pb2.FLOAT_TYPE_F16,
    F32: component_pb2.FLOAT_TYPE_F32,
    None: AS_STORED,
}

Layer = Callable[[str], bool]


def mode_number(name: str) -> int:
    return component_pb2.QuantisationMode.Value(f"QUANTISATION_MODE_{name.upper()}")


def mode_name(number: int) -> str:
    return component_pb2.QuantisationMode.Name(number).removeprefix("QUANTISATION_MODE_").lower()


class Scheme(NamedTuple):
    mode: str
    bits: int
    group_size: int

    @property
    def keywords(self) -> dict:
        return {"mode": self.mode, "bits": self.bits, "group_size": self.group_size}

    @property
    def roles(self) -> tuple[str, ...]:
        return ("weight", "scales", "biases") if self.mode == "affine" else ("weight", "scales")

    def message(self, **selection) -> component_pb2.Quantisation:
        return component_pb2.Quantisation(**{**self.keywords, "mode": mode_number(self.mode)}, **selection)

    def __str__(self) -> str:
        return f"{self.mode}_{self.bits}_{self.group_size}"


AFFINE = [Scheme("affine", bits, group) for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128)]
SCHEMES = [*AFFINE, Scheme("mxfp4", 4, 32), Scheme("mxfp8", 8, 32), Scheme("nvfp4", 4, 16)]


def cast(values: np.ndarray, dtype: np.dtype | None) -> np.ndarray:
    """Floats become `dtype`; everything else is as it was."""
    if dtype is None or values.dtype not in FLOATS or values.dtype == dtype:
        return values
    return numpy(array(values).astype(KINDS[dtype]))


def to_ohwi(values: np.ndarray) -> np.ndarray:
    return numpy(mx.contiguous(array(values).transpose(0, 2, 3, 1)))


def quantise(values: np.ndarray, scheme: Scheme) -> list[np.ndarray]:
    return [numpy(part) for part in mx.quantize(array(values), **scheme.keywords)]


def dequantise(parts: Iterable[np.ndarray], scheme: Scheme) -> np.ndarray:
    """BF16, or the dtype of affine scales, as MLX has it where nothing else is asked."""
    return numpy(mx.dequantize(*map(array, parts), **scheme.keywords))


def packed(layer: str, parts: Iterable[np.ndarray], scheme: Scheme) -> Tensors:
    return {f"{layer}.{role}": part for role, part in zip(scheme.roles, parts, strict=True)}


@dataclass(frozen=True)
class Delta:
    """What is added to a weight: rows of `product * (scale * alpha / divisor)`, by `core/src/derive/delta.rs`."""

    product: mx.array
    scale: float
    alpha: float = 1.0
    divisor: float = 1.0
    rows: tuple[int | None, int | None] = (None, None)

    def added(self) -> mx.array:
        # In double precision, rounded once.
        factor = np.float32(self.scale * self.alpha / self.divisor)
        return self.product[slice(*self.rows)] * mx.array(factor, dtype=mx.float32)


def changed(values: np.ndarray, deltas: Iterable[Delta]) -> np.ndarray:
    """Added in F32, one after the other, beginning with the weight. Stays in F32."""
    total = array(values).astype(mx.float32)
    for delta in deltas:
        total = total + delta.added()
    return numpy(total)


@dataclass(frozen=True)
class Conversion:
    """A request, and the checkpoint's packed layers."""

    dtype: np.dtype | None = None
    ask: Scheme | None = None
    chosen: frozenset[str] = frozenset()
    stored: dict[str, Scheme] | None = None
    dequantise: bool = False
    plain_where_fused: bool = False
    deltas: dict[str, list[Delta]] | None = None

    def of(self, tensors: Tensors) -> tuple[Tensors, dict[str, Scheme]]:
        """The tensors, and how the layers among them are packed."""
        stored, out, schemes = self.stored or {}, {}, {}
        parts = {f"{layer}.{role}" for layer, scheme in stored.items() for role in scheme.roles}
        for name, values in tensors.items():
            layer = name.removesuffix(".weight") if name.endswith(".weight") else None
            if name in parts and layer not in stored:
                continue
            results, scheme = self.layer(layer, values, tensors)
            out |= {name: results[0]} if scheme is None else packed(layer, results, scheme)
            schemes |= {} if scheme is None else {layer: scheme}
        return out, schemes

    def layer(self, layer: str | None, values: np.ndarray, tensors: Tensors) -> tuple[list[np.ndarray], Scheme | None]:
        scheme = (self.stored or {}).get(layer)
        deltas = (self.deltas or {}).get(layer, [])
        ask = self.ask if layer in self.chosen else None
        if scheme is None:
            weight, then = values, ask
        else:
            parts = [tensors[f"{layer}.{role}"] for role in scheme.roles]
            then = ask or (None if self.dequantise or (deltas and self.plain_where_fused) else scheme)
            if then == scheme and not deltas:
                return parts, scheme
            weight = dequantise(parts, scheme)
        # What is quantised again as it was keeps the dtype of its scales.
        wanted = weight.dtype if scheme is not None and then == scheme else self.dtype or weight.dtype
        weight = cast(changed(weight, deltas) if deltas else weight, wanted)
        return (quantise(weight, then), then) if then else ([weight], None)


def matrices(tensors: Tensors, stored: dict[str, Scheme] | None = None) -> dict[str, tuple[int, ...]]:
    """Layers that have a matrix of floats, and the logical shapes."""
    found = {
        name.removesuffix(".weight"): values.shape
        for name, values in tensors.items()
        if name.endswith(".weight") and values.ndim == 2 and values.dtype in FLOATS
    }
    for layer, scheme in (stored or {}).items():
        rows, words = tensors[f"{layer}.weight"].shape
        found[layer] = (rows, words * 32 // scheme.bits)
    return found


def chosen(layers: dict[str, tuple[int, ...]], scheme: Scheme, rule: Layer) -> frozenset[str]:
    """The layers of a rule whose rows are whole groups, one at least."""
    whole = {layer for layer, (_, columns) in layers.items() if columns and columns % scheme.group_size == 0}
    return frozenset(filter(rule, whole))


def rule(layer: str) -> bool:
    """zimage.swift's, and so the family's: no embeddings, norms, first and last layers."""
    return "embed" not in layer and "norm" not in layer and not layer.startswith(("all_x_embedder", "all_final_layer"))


def any_rule(layer: str) -> bool:
    """mlx-lm's, as far as names tell: linear layers and embeddings."""
    return "norm" not in layer


def in_mlx(component: str, tensors: Tensors) -> Tensors:
    """The names of zimage.swift's modules, and its kernels."""
    names = {
        "transformer": lambda name: re.sub(
            r"^cap_embedder\.([01])\.", lambda found: ("capEmbedNorm.", "capEmbedLinear.")[int(found[1])], name
        ),
        "text_encoder": lambda name: re.sub(r"^model\.", "encoder.", name),
        "vae": lambda name: name,
    }[component]
    kernel = component == "vae"
    return {names(name): to_ohwi(values) if kernel and values.ndim == 4 else values for name, values in tensors.items()}

"""Adapters as trainers write them, each with what it adds to which layer: the product in MLX, alpha and divisor by the
trainer's own rule, written down case by case."""

import json
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
from derive_inputs import normal, save
from derive_judge import BF16, F16, F32, Delta
from layouts import Tensors
from lent import array
from weights.v1 import component_pb2, model_pb2

ATTENTION, FEED = "layers.0.attention", "layers.0.feed_forward"


@dataclass(frozen=True)
class Added:
    """What a layer gets, before the user's scale."""

    product: mx.array
    alpha: float = 1.0
    divisor: float = 1.0
    rows: tuple[int | None, int | None] = (None, None)

    def scaled(self, scale: float) -> Delta:
        return Delta(self.product, scale, self.alpha, self.divisor, self.rows)


@dataclass
class Adapter:
    tensors: Tensors
    layers: dict[str, Added]
    config: dict | None = None
    file: str = "adapter.safetensors"
    # Words that the report's only remark has; None: it has no remark.
    remark: str | None = None

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        if self.config is not None:
            (folder / "adapter_config.json").write_text(json.dumps(self.config))
        save(self.tensors, folder / self.file)
        return folder.resolve()


def f32(values: np.ndarray) -> mx.array:
    return array(values).astype(mx.float32)


def product(up: np.ndarray, down: np.ndarray) -> mx.array:
    return f32(up) @ f32(down)


class Maker:
    """Makes matrices for the layers of a model."""

    def __init__(self, weights: Tensors, seed: int = 0):
        self.weights, self.seed = weights, seed

    def shape(self, layer: str) -> tuple[int, int]:
        return self.weights[f"{layer}.weight"].shape

    def matrix(self, rows: int, columns: int, dtype: np.dtype = F32) -> np.ndarray:
        self.seed += 1
        return (normal(self.seed, (rows, columns)) / 8).astype(dtype)

    def pair(self, layer: str, rank: int, dtype: np.dtype = F32) -> tuple[np.ndarray, np.ndarray]:
        """Down and up."""
        down, up = self.pair_shapes(layer, rank)
        return self.matrix(*down, dtype), self.matrix(*up, dtype)

    def pair_shapes(self, layer: str, rank: int) -> tuple[tuple[int, int], tuple[int, int]]:
        rows, columns = self.shape(layer)
        return (rank, columns), (rows, rank)

    def kohya(self) -> Adapter:
        """With an alpha of its own, with one of F16, as a 1x1 kernel, and without any, which is the whole product."""
        tensors, layers = {}, {}
        cases = [("attention.to_q", F16, F32), ("attention.to_k", BF16, F16), ("feed_forward.w2", F32, BF16)]
        for number, (name, dtype, alpha_dtype) in enumerate([*cases, ("feed_forward.w1", F32, None)]):
            base = f"lora_unet_layers_0_{name.replace('.', '_')}"
            down, up = self.pair(f"layers.0.{name}", 3 + number, dtype)
            kernel = number == 2
            tensors |= {f"{base}.lora_down.weight": down[:, :, None, None] if kernel else down}
            tensors |= {f"{base}.lora_up.weight": up[:, :, None, None] if kernel else up}
            layers[f"layers.0.{name}"] = Added(product(up, down))
            if alpha_dtype is not None:
                alpha = np.array(1.7 + number, alpha_dtype)
                tensors[f"{base}.alpha"] = alpha
                layers[f"layers.0.{name}"] = Added(product(up, down), float(alpha), 3 + number)
        return Adapter(tensors, layers)

    def peft(self) -> Adapter:
        """`lora_alpha / r`; patterns may set both for some modules."""
        alphas = {"to_q": (16, 4), "to_k": (3, 4), "to_v": (16, 7), "to_out.0": (5, 7)}
        tensors, layers = {}, {}
        for name, (alpha, rank) in alphas.items():
            down, up = self.pair(f"{ATTENTION}.{name}", rank, BF16)
            base = f"base_model.model.{ATTENTION}.{name}"
            tensors |= {f"{base}.lora_A.weight": down, f"{base}.lora_B.weight": up}
            layers[f"{ATTENTION}.{name}"] = Added(product(up, down), alpha, rank)
        config = {"peft_type": "LORA", "r": 4, "lora_alpha": 16, "target_modules": ["to_q"], "bias": "none"}
        config |= {"alpha_pattern": {"attention.to_k": 3, "to_out.0": 5}, "rank_pattern": {"to_v": 7, "to_out.0": 7}}
        return Adapter(tensors, layers, config, "adapter_model.safetensors")

    def rslora(self) -> Adapter:
        """`lora_alpha / sqrt(r)`."""
        down, up = self.pair(f"{FEED}.w3", 5)
        base = f"base_model.model.transformer.{FEED}.w3"
        tensors = {f"{base}.lora_A.default.weight": down, f"{base}.lora_B.default.weight": up}
        config = {"peft_type": "LORA", "r": 5, "lora_alpha": 8, "use_rslora": True}
        return Adapter(tensors, {f"{FEED}.w3": Added(product(up, down), 8, 5**0.5)}, config)

    def diffusers(self) -> Adapter:
        """No alpha anywhere: it is in the matrices. All names of a block's layers, and layers outside blocks."""
        names = {
            "transformer.transformer_blocks.0.attn.to_out.0": f"{ATTENTION}.to_out.0",
            "transformer.noise_refiner.0.attention.to_q": "noise_refiner.0.attention.to_q",
            "transformer.context_refiner.0.feed_forward.w1": "context_refiner.0.feed_forward.w1",
            "transformer.layers.0.adaLN_modulation.0": "layers.0.adaLN_modulation.0",
            "transformer.all_final_layer.2-1.linear": "all_final_layer.2-1.linear",
            "transformer.t_embedder.mlp.0": "t_embedder.mlp.0",
            "transformer.cap_embedder.1": "cap_embedder.1",
        }
        tensors, layers = {}, {}
        for base, layer in names.items():
            down, up = self.pair(layer, 2, F16)
            tensors |= {f"{base}.lora_A.weight": down, f"{base}.lora_B.weight": up}
            layers[layer] = Added(product(up, down))
        return Adapter(tensors, layers, file="pytorch_lora_weights.safetensors")

    def dots(self) -> Adapter:
        """`.lora.down` and `.lora.up`, one of them written the other way round."""
        down, up = self.pair(f"{FEED}.w1", 6)
        tensors = {f"{FEED}.w1.lora.down.weight": np.ascontiguousarray(down.T), f"{FEED}.w1.lora.up.weight": up}
        tensors[f"{FEED}.w1.alpha"] = np.array([4], np.int64)
        return Adapter(tensors, {f"{FEED}.w1": Added(f32(up) @ f32(down.T.copy()).T, 4, 6)})

    def mlx_lm(self) -> Adapter:
        """`[input, rank]` and `[rank, output]`, and the factor itself in the config. A square pair fits either way."""
        tensors, layers = {}, {}
        for layer, rank in ((f"{FEED}.w2", 4), (f"{ATTENTION}.to_v", self.shape(f"{ATTENTION}.to_v")[0])):
            down, up = self.pair(layer, rank)
            a, b = np.ascontiguousarray(down.T), np.ascontiguousarray(up.T)
            tensors |= {f"{layer}.lora_a": a, f"{layer}.lora_b": b}
            layers[layer] = Added(f32(b).T @ f32(a).T, 20.0, 1.0)
        config = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": {"dropout": 0.0, "scale": 20.0}}
        return Adapter(tensors, layers, config, "adapters.safetensors")

    def fused(self) -> Adapter:
        """One pair for three layers; each takes its rows."""
        rows, columns = self.shape(f"{ATTENTION}.to_q")
        down, up = self.matrix(4, columns, BF16), self.matrix(3 * rows, 4, BF16)
        base = f"diffusion_model.{ATTENTION}.qkv"
        tensors = {f"{base}.lora_A.weight": down, f"{base}.lora_B.weight": up, f"{base}.alpha": np.array(2.5, F32)}
        whole = product(up, down)
        parts = {
            f"{ATTENTION}.to_{letter}": Added(whole, 2.5, 4, (number * rows, (number + 1) * rows))
            for number, letter in enumerate("qkv")
        }
        return Adapter(tensors, parts)

    def lokr_whole(self) -> Adapter:
        """LyCORIS writes an alpha beside whole factors, which says nothing."""
        rows, columns = self.shape(f"{FEED}.w1")
        w1, w2 = self.matrix(4, 8, BF16), self.matrix(rows // 4, columns // 8, BF16)
        base = f"lycoris_{FEED.replace('.', '_')}_w1"
        tensors = {f"{base}.lokr_w1": w1, f"{base}.lokr_w2": w2, f"{base}.alpha": np.array(1e10, F32)}
        return Adapter(tensors, {f"{FEED}.w1": Added(mx.kron(f32(w1), f32(w2)))}, remark="scale nothing")

    def lokr_factored(self) -> Adapter:
        """The second factor is a product, then both are; alpha is divided by the rank."""
        tensors, layers = {}, {}
        for layer in (f"{ATTENTION}.to_q", f"{FEED}.w3"):
            rows, columns = self.shape(layer)
            base, alpha = f"lycoris_{layer.replace('.', '_')}", np.array(1.3, F32)
            a, b = self.matrix(rows // 4, 5), self.matrix(5, columns // 2)
            tensors |= {f"{base}.lokr_w2_a": a, f"{base}.lokr_w2_b": b, f"{base}.alpha": alpha}
            first = f32(self.matrix(4, 2))
            tensors[f"{base}.lokr_w1"] = np.array(first)
            if layer == f"{FEED}.w3":
                del tensors[f"{base}.lokr_w1"]
                c, d = self.matrix(4, 5, F16), self.matrix(5, 2, F16)
                tensors |= {f"{base}.lokr_w1_a": c, f"{base}.lokr_w1_b": d}
                first = product(c, d)
            layers[layer] = Added(mx.kron(first, product(a, b)), float(alpha), 5)
        return Adapter(tensors, layers)

    def lokr_peft(self) -> Adapter:
        """PEFT scales whole factors as it does others: `alpha / r`."""
        rows, columns = self.shape(f"{ATTENTION}.to_k")
        w1, w2 = self.matrix(2, 4), self.matrix(rows // 2, columns // 4)
        base = f"base_model.model.{ATTENTION}.to_k"
        tensors = {f"{base}.lokr_w1": w1, f"{base}.lokr_w2": w2}
        config = {"peft_type": "LOKR", "r": 8, "alpha": 3}
        return Adapter(tensors, {f"{ATTENTION}.to_k": Added(mx.kron(f32(w1), f32(w2)), 3, 8)}, config)

    def loha(self) -> Adapter:
        layers, tensors = {}, {}
        rows, columns = self.shape(f"{FEED}.w2")
        (a, b), (c, d) = ((self.matrix(rows, 3, dtype), self.matrix(3, columns, dtype)) for dtype in (F32, BF16))
        base = f"lycoris_{FEED.replace('.', '_')}_w2"
        tensors = {f"{base}.hada_w1_a": a, f"{base}.hada_w1_b": b, f"{base}.hada_w2_a": c, f"{base}.hada_w2_b": d}
        tensors[f"{base}.alpha"] = np.array(2, F32)
        layers[f"{FEED}.w2"] = Added(product(a, b) * product(c, d), 2, 3)
        return Adapter(tensors, layers)

    def difference(self) -> Adapter:
        whole = self.matrix(*self.shape(f"{FEED}.w3"), F16)
        return Adapter({f"diffusion_model.{FEED}.w3.diff": whole}, {f"{FEED}.w3": Added(f32(whole))})


KINDS = [
    "kohya", "peft", "rslora", "diffusers", "dots", "mlx_lm", "fused", "lokr_whole", "lokr_factored", "lokr_peft",
    "loha", "difference",
]  # fmt: skip


def asked(adapters: list[tuple[Path, float | None]]) -> list[component_pb2.Adapter]:
    return [
        component_pb2.Adapter(model=model_pb2.ModelSelector(spec=str(path)), scale=scale) for path, scale in adapters
    ]


def summed(adapters: list[tuple[Adapter, float]]) -> dict[str, list[Delta]]:
    """By layer, in the order in which they are asked for."""
    deltas: dict[str, list[Delta]] = {}
    for adapter, scale in adapters:
        for layer, added in adapter.layers.items():
            deltas.setdefault(layer, []).append(added.scaled(scale))
    return deltas

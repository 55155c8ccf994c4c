"""Adapters that PEFT, LyCORIS and mlx-lm write themselves, with the weights that they themselves make of them.

Numbers are whole and small, so that sums and squares are exact in F32 in every order of summing; then each of them rounds
once where weightsd rounds once, and all bits have to agree. What is compared by bounds says why."""

import json
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import torch
from derive_inputs import save
from layouts import Tensors
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from mlx_lm.models.switch_layers import SwitchLinear
from mlx_lm.tuner.dora import DoRALinear
from mlx_lm.tuner.lora import LoRASwitchLinear
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file

LINEARS = ["layers.0.attention.to_q", "layers.0.attention.to_k", "layers.0.feed_forward.w1", "layers.0.feed_forward.w2"]


def whole(seed: int, shape: tuple[int, ...], most: int) -> np.ndarray:
    """Whole numbers from `-most` to `most`."""
    return np.random.default_rng(seed).integers(-most, most + 1, shape).astype(np.float32)


def whole_weights(tensors: Tensors, seed: int = 1) -> Tensors:
    """The same tensors with whole numbers."""
    return {name: whole(seed + number, values.shape, 4) for number, (name, values) in enumerate(tensors.items())}


class Tree(torch.nn.Module):
    """Layers under their names, as PEFT finds them."""

    def __init__(self, weights: Tensors, layers: list[str]):
        super().__init__()
        for layer in layers:
            *path, last = layer.split(".")
            at = self
            for name in path:
                if name not in at._modules:
                    at.add_module(name, torch.nn.Module())
                at = at._modules[name]
            at.add_module(last, module(weights[f"{layer}.weight"]))


def module(weight: np.ndarray) -> torch.nn.Module:
    """A layer with this weight."""
    if weight.ndim == 2:
        made = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    else:
        made = torch.nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], bias=False)
    made.weight = torch.nn.Parameter(torch.from_numpy(weight.copy()), requires_grad=False)
    return made


def fill(parameters: dict[str, torch.Tensor], seed: int, most: int, is_exact: bool) -> None:
    """Gives an adapter numbers. Magnitudes are positive."""
    for number, (name, values) in enumerate(sorted(parameters.items())):
        shape = tuple(values.shape)
        numbers = whole(seed + number, shape, most)
        if not is_exact:
            numbers = np.random.default_rng(seed + number).standard_normal(shape, dtype=np.float32) / 4
        if "magnitude" in name or "dora_scale" in name:
            numbers = np.abs(numbers) * 8 + 1
        values.data.copy_(torch.from_numpy(numbers))


@dataclass
class Judged:
    """An adapter in a folder, and the weights that its own library makes."""

    folder: Path
    weights: Tensors


def peft(folder: Path, weights: Tensors, layers: list[str], seed: int = 50, is_exact: bool = True, **config) -> Judged:
    """PEFT's DoRA: saved by `save_pretrained`, merged by `merge_and_unload`."""
    config = {"r": 4, "lora_alpha": 8, "use_dora": True, "target_modules": layers} | config
    model = get_peft_model(Tree(weights, layers), LoraConfig(**config))
    fill({name: values for name, values in model.named_parameters() if "lora_" in name}, seed, 2, is_exact)
    model.save_pretrained(str(folder))
    merged = model.merge_and_unload().state_dict()
    return Judged(folder, {name: values.numpy().copy() for name, values in merged.items()})


def peft_several(folders: list[Path], weights: Tensors, layers: list[str]) -> Tensors:
    """Several adapters, merged by PEFT in this order."""
    model = PeftModel.from_pretrained(Tree(weights, layers), str(folders[0]), adapter_name="0")
    for number, folder in enumerate(folders[1:], 1):
        model.load_adapter(str(folder), adapter_name=str(number))
    names = [str(number) for number in range(len(folders))]
    merged = model.merge_and_unload(adapter_names=names).state_dict()
    return {name: values.numpy().copy() for name, values in merged.items()}


MODULES = {"locon": LoConModule, "lokr": LokrModule, "loha": LohaModule}


@torch.no_grad()
def lycoris(
    folder: Path, weights: Tensors, layers: list[str], kind: str, seed: int = 70, is_exact: bool = True, **options
) -> Judged:
    """LyCORIS' LoCon, LoKr or LoHa, saved under its names. The weight is the one that it trains with: that of `forward`.
    Its `merge_to` agrees where alpha is the rank; elsewhere 4.1.3 multiplies LoKr and LoHa by the strength twice."""
    options = {"lora_dim": 4, "alpha": 4} | options
    tensors, out = {}, {}
    for number, layer in enumerate(layers):
        base = module(weights[f"{layer}.weight"])
        made = MODULES[kind](f"lycoris_{layer}", base, 1.0, **options)
        fill(dict(made.named_parameters()), seed + 10 * number, 2, is_exact)
        prefix = f"lycoris_{layer.replace('.', '_')}."
        tensors |= {name: values.contiguous() for name, values in made.state_dict(prefix=prefix).items()}
        weight = base.weight.detach().clone()
        added = made.make_weight() * made.scale if kind == "locon" else made.get_weight(made.shape)
        trained = weight + added.reshape(weight.shape)
        trained = made.apply_weight_decompose(trained) if options.get("weight_decompose") else trained
        if made.scale == 1 or kind == "locon":
            made.merge_to(1.0)
            assert torch.equal(base.weight, trained)
        out[f"{layer}.weight"] = trained.numpy().copy()
    folder.mkdir(parents=True)
    save_file(tensors, str(folder / "style.safetensors"))
    return Judged(folder, out)


def mlx_lm_experts(folder: Path, weights: Tensors, layers: list[str], seed: int = 80, rank: int = 4) -> Judged:
    """mlx-lm's LoRA of stacked experts, saved as its trainer does it and merged by its own `fuse`."""
    tensors, out = {}, {}
    for number, layer in enumerate(layers):
        weight = weights[f"{layer}.weight"]
        experts, rows, columns = weight.shape
        linear = SwitchLinear(columns, rows, experts, bias=False)
        linear.weight = mx.array(weight)
        made = LoRASwitchLinear.from_base(linear, r=rank, scale=2.0)
        made.lora_a = mx.array(whole(seed + 2 * number, (experts, rank, columns), 2))
        made.lora_b = mx.array(whole(seed + 2 * number + 1, (experts, rows, rank), 2))
        tensors |= {f"{layer}.{name}": np.array(made[name]) for name in ("lora_a", "lora_b")}
        out[f"{layer}.weight"] = np.array(made.fuse().weight)
    folder.mkdir(parents=True)
    save(tensors, folder / "adapters.safetensors")
    config = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": {"rank": rank, "dropout": 0.0, "scale": 2.0}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return Judged(folder, out)


def mlx_lm(folder: Path, weights: Tensors, layers: list[str], seed: int = 90) -> Judged:
    """mlx-lm's DoRA, saved as its trainer does it and merged by its own `fuse`."""
    tensors, out = {}, {}
    for number, layer in enumerate(layers):
        weight = weights[f"{layer}.weight"]
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        linear.weight = mx.array(weight)
        made = DoRALinear.from_base(linear, r=4, scale=2.0)
        made.lora_a = mx.array(whole(seed + 3 * number, (weight.shape[1], 4), 2))
        made.lora_b = mx.array(whole(seed + 3 * number + 1, (4, weight.shape[0]), 2))
        made.m = mx.array(np.abs(whole(seed + 3 * number + 2, (weight.shape[0],), 9)) + 1)
        tensors |= {f"{layer}.{name}": np.array(made[name]) for name in ("lora_a", "lora_b", "m")}
        out[f"{layer}.weight"] = np.array(made.fuse().weight)
    folder.mkdir(parents=True)
    save(tensors, folder / "adapters.safetensors")
    config = {"fine_tune_type": "dora", "num_layers": 1, "lora_parameters": {"rank": 4, "dropout": 0.0, "scale": 2.0}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return Judged(folder, out)

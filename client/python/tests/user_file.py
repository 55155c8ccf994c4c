"""A user's program, for the type checkers. Nobody runs it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import mlx.core as mx
import numpy as np
import torch

import weightsd


def told(progress: weightsd.Progress) -> None:
    print(progress.phase, progress.bytes_done / max(progress.bytes_total, 1))


def main() -> None:
    with weightsd.load("org/repo", "vae", dtype="bf16", adapters=[("style", 0.8)], progress=told) as vae:
        tensors: Mapping[str, weightsd.Tensor] = vae
        state: dict[str, torch.Tensor] = vae.torch("cpu")
        arrays: dict[str, np.ndarray] = vae.numpy()
        weights: list[tuple[str, mx.array]] = vae.mlx_module_weights()
        print(len(tensors), len(state), len(arrays), len(weights), vae.report().copied_bytes)
        for layer in vae.quantised.values():
            print(layer.scheme.bits, layer.weight.shape)
    try:
        weightsd.pull("org/repo")
    except weightsd.Refused as error:
        print(error.reason, error.hint, error.audit and error.audit.missing)
    for event in weightsd.events():
        print(event.event and event.event.message)


async def later() -> None:
    component: weightsd.Component = await weightsd.aio.load("org/repo")
    status: weightsd.Status = await weightsd.aio.status()
    print(component.id, status.limits and status.limits.image_budget)
    async for event in weightsd.aio.events(follow=True):
        print(event)


asyncio.run(later())

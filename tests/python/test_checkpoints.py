"""The writer of checkpoints, held against the published files."""

import json
from math import prod

import pytest
from checkpoints import (
    MODEL_INDEX,
    SCHEDULER,
    Z_IMAGE_TURBO,
    json_text,
    text_encoder_shapes,
    transformer_shapes,
    vae_shapes,
)


@pytest.mark.parametrize(
    ("shapes", "tensors", "parameters"),
    [
        (transformer_shapes(Z_IMAGE_TURBO.transformer), 521, 6_154_908_736),
        (text_encoder_shapes(Z_IMAGE_TURBO.text_encoder), 398, 4_022_468_096),
        (vae_shapes(Z_IMAGE_TURBO.vae), 244, 83_819_683),
    ],
    ids=["transformer", "text_encoder", "vae"],
)
def test_true_sizes(shapes, tensors, parameters):
    assert len(shapes) == tensors
    assert sum(map(prod, shapes.values())) == parameters


def test_true_ranks():
    transformer = transformer_shapes(Z_IMAGE_TURBO.transformer).values()
    assert [sum(len(shape) == rank for shape in transformer) for rank in (1, 2)] == [243, 278]
    vae = vae_shapes(Z_IMAGE_TURBO.vae)
    halves = {half: [s for n, s in vae.items() if n.startswith(half)] for half in ("encoder", "decoder")}
    assert {half: (len(shapes), sum(map(prod, shapes))) for half, shapes in halves.items()} == {
        "encoder": (106, 34_274_208),
        "decoder": (138, 49_545_475),
    }
    assert [sum(len(shape) == 4 for shape in shapes) for shapes in halves.values()] == [27, 35]


def test_true_configurations():
    """The lengths of the published files show that no key is missing or too many."""
    assert len(json_text(Z_IMAGE_TURBO.transformer)) == 473
    assert len(json_text(Z_IMAGE_TURBO.text_encoder).rstrip()) == 726  # Published without the final newline.
    assert len(json_text(Z_IMAGE_TURBO.vae)) == 805
    assert len(json.dumps(SCHEDULER, indent=2)) == 173
    assert len(json.dumps(MODEL_INDEX, indent=4)) == 467

"""Catalogues of language models, judged by the parameters of transformers' own classes and of mlx-lm's: of every architecture
that is known, with every switch of its config."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
from derive_inputs import save
from language_models import ARCHITECTURES, SPARSE, listed, of_mlx_lm, saved, variants
from layouts import read_component
from lent import check, lent
from safetensors import safe_open
from weights.v1 import component_pb2

SOURCE = component_pb2.LAYOUT_SOURCE


def names(folder) -> list[str]:
    with safe_open(folder / "model.safetensors", "np") as opened:
        return list(opened.keys())


def audited(daemon, folder):
    assert daemon.resolve(str(folder)).family == "causal-lm"
    (report,) = daemon.audit(str(folder), "model").reports
    return report


def check_whole(report, folder, tolerated: int = 0) -> None:
    told = (report.unchecked, report.missing, report.wrong_shape, report.wrong_dtype, report.extra)
    assert told == (0, 0, 0, 0, 0), f"{told}: {report.missing_sample} {report.wrong_shape_sample} {report.extra_sample}"
    assert report.clean and report.expected + tolerated == len(names(folder))


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_what_transformers_saves_is_the_catalogue(daemon, tmp_path, model_type):
    for variant in variants(model_type):
        folder = saved(tmp_path / variant, model_type, variant)
        check_whole(audited(daemon, folder), folder)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_what_transformers_has_in_memory_is_the_catalogue(daemon, tmp_path, model_type):
    """Experts in one tensor, and a head that is tied."""
    for variant in variants(model_type):
        folder = listed(tmp_path / variant, model_type, variant)
        config = json.loads((folder / "config.json").read_text())
        is_tied = config.get("tie_word_embeddings", False)
        check_whole(audited(daemon, folder), folder, tolerated=1 if is_tied else 0)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
@pytest.mark.parametrize("bits", [None, 4], ids=["plain", "quantised"])
def test_what_mlx_lm_saves_is_the_catalogue(daemon, tmp_path, model_type, bits):
    if model_type == "olmo" or find_spec(f"mlx_lm.models.{model_type}") is None:
        pytest.skip(f"mlx-lm has no {model_type} of its own")
    folder = of_mlx_lm(tmp_path / "model", model_type, bits)
    report = audited(daemon, folder)
    check_whole(report, folder)
    if bits:
        assert sum(scheme.layers for scheme in report.schemes) > 3


@pytest.mark.parametrize("model_type", SPARSE)
def test_experts_are_lent_as_they_are_saved(daemon, tmp_path, model_type):
    folders = [saved(tmp_path / "saved", model_type, "usual")]
    if find_spec(f"mlx_lm.models.{model_type}"):
        folders.append(of_mlx_lm(tmp_path / "mlx", model_type))
    for folder in folders:
        check(lent(daemon.load(str(folder), "model", layout=SOURCE)), read_component(folder))
        check(lent(daemon.load(str(folder), "model")), read_component(folder))


@pytest.mark.parametrize("model_type", SPARSE)
def test_an_expert_that_is_missing_or_of_another_size_is_named(daemon, tmp_path, model_type):
    folder = saved(tmp_path / "model", model_type, "usual")
    whole = read_component(folder)
    (gone, *_, odd) = [name for name in whole if "experts" in name or "_linear.weight" in name]
    save({name: values for name, values in whole.items() if name != gone}, folder / "model.safetensors")
    report = audited(daemon, folder)
    assert (report.missing, list(report.missing_sample), report.clean) == (1, [gone], False)
    save(whole | {odd: np.zeros((*whole[odd].shape[:-1], 7), np.float32)}, folder / "model.safetensors")
    report = audited(daemon, folder)
    assert (report.wrong_shape, [found.name for found in report.wrong_shape_sample]) == (1, [odd])

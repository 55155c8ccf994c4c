"""What cannot be computed is refused with a code, a reason and a hint, and what of an adapter is left out is told."""

from pathlib import Path

import grpc
import numpy as np
import pytest
from daemon import error_detail
from derive_adapters import ATTENTION, FEED, Adapter, Added, Maker, asked, product, summed
from derive_inputs import any_bits, generic, normal, save
from derive_judge import F32, Conversion, matrices, mode_number
from judged import judge
from layouts import Tensors
from weights.v1 import audit_pb2, component_pb2, error_pb2

Code = grpc.StatusCode
SOURCE = component_pb2.LAYOUT_SOURCE
BASE = f"diffusion_model.{ATTENTION}.to_q"


def refused(daemon, spec: Path, component: str, code: Code, reason: str, **options) -> tuple[str, str]:
    """The sentence, and what it is about."""
    with pytest.raises(grpc.RpcError) as raised:
        daemon.load(str(spec), component, **options)
    detail = error_detail(raised.value)
    assert (raised.value.code(), error_pb2.ErrorReason.Name(detail.reason)) == (code, f"ERROR_REASON_{reason}")
    assert detail.hint and not detail.retryable
    return raised.value.details(), detail.resource


def quantisation(mode: str = "unspecified", **fields) -> component_pb2.Quantisation:
    return component_pb2.Quantisation(mode=mode_number(mode), **fields)


@pytest.mark.parametrize(
    ("asked_for", "words"),
    [
        ({"only": ["layers.*.no_such_layer"]}, ["layers.*.no_such_layer", "matches none of the"]),
        ({"excluding": ["nothing*"]}, ["nothing*", "matches none of the"]),
        ({"only": ["[layers"]}, ["[layers", "cannot be used"]),
        ({"only": ["*.to_q"], "excluding": ["*"]}, ["no layer of the component can be quantised"]),
        ({"only": ["*.to_q"], "group_size": 128}, ["to_q", "[192, 192]", "no whole groups", "groups of 128"]),
    ],
)
def test_a_quantisation_that_fits_no_layer_is_refused(daemon, family, asked_for, words):
    said, about = refused(
        daemon, family, "transformer", Code.INVALID_ARGUMENT, "CANNOT_CONVERT", quantise=quantisation(**asked_for)
    )
    assert about == "transformer"
    assert [word for word in words if word not in said] == [], said


def test_the_vae_has_nothing_that_the_rule_quantises(daemon, family):
    said, _ = refused(
        daemon, family, "vae", Code.INVALID_ARGUMENT, "CANNOT_CONVERT", quantise=quantisation(group_size=32)
    )
    assert "no layer of the component can be quantised" in said


@pytest.mark.parametrize(
    ("options", "about", "words"),
    [
        ({"quantise": quantisation(mode="affine", group_size=48)}, "quantise", ["48", "32, 64, 128"]),
        ({"quantise": quantisation(bits=7)}, "quantise", ["7 bits", "2, 3, 4, 5, 6, 8"]),
        ({"quantise": component_pb2.Quantisation(mode=99)}, "quantise.mode", ["does not know"]),
        ({"quantise": quantisation(mode="mxfp4", bits=8)}, "quantise", ["8 bits", "mxfp4"]),
        ({"quantise": quantisation(mode="nvfp4", group_size=32)}, "quantise", ["32", "nvfp4"]),
        ({"quantise": quantisation(), "dequantise": True}, "dequantise", ["quantise"]),
        ({"quantise": quantisation(only=[""])}, "quantise.only", ["empty"]),
        ({"dtype": 99}, "dtype", ["does not know"]),
        ({"merged_layers": 99}, "merged_layers", ["does not know"]),
        ({"adapters": asked([(Path("/nowhere"), 0.0)])}, "adapters", ["scale 0"]),
        ({"adapters": asked([(Path("/nowhere"), float("nan"))])}, "adapters", ["scale NaN"]),
        ({"adapters": asked([(Path("/nowhere"), float("inf"))])}, "adapters", ["scale inf"]),
        ({"adapters": asked([(Path("/nowhere"), 1.0)] * 33)}, "adapters", ["33", "32"]),
        ({"adapters": [component_pb2.Adapter()]}, "model", ["missing"]),
    ],
)
def test_a_request_that_means_nothing_is_refused_before_anything_is_read(daemon, family, options, about, words):
    said, resource = refused(daemon, family, "transformer", Code.INVALID_ARGUMENT, "INVALID_REQUEST", **options)
    assert resource == about
    assert [word for word in words if word not in said] == [], said


def pair(transformer: Tensors, layer: str = f"{ATTENTION}.to_q", base: str = BASE, rank: int = 2) -> Tensors:
    down, up = Maker(transformer).pair(layer, rank)
    return {f"{base}.lora_A.weight": down, f"{base}.lora_B.weight": up}


def bad_adapters(transformer: Tensors) -> dict[str, tuple[Tensors, dict | None, list[str]]]:
    """Tensors, config, and words of the refusal."""
    good = pair(transformer)
    foreign = {f"diffusion_model.double_blocks.0.img_attn.qkv.lora_{side}.weight": normal(1, (4, 4)) for side in "AB"}
    narrow = {f"{BASE}.lora_A.weight": normal(1, (2, 191)), f"{BASE}.lora_B.weight": normal(2, (192, 2))}
    integers = {name: any_bits(3, values.shape, np.dtype(np.int32)) for name, values in good.items()}
    other = {name.replace("diffusion_model.", "base_model.model.transformer."): -values for name, values in good.items()}
    magnitude = {f"{BASE}.dora_scale": normal(4, (191, 1))}
    peft = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}
    return {
        "dora": (good | magnitude, None, ["192 magnitudes of rows", f"{BASE}.dora_scale", "[191, 1]"]),
        "dora_of_peft": (good, peft | {"use_dora": True}, ["no magnitudes", "use_dora"]),
        "no_dora_of_peft": (good | {f"{BASE}.m": normal(4, (192,))}, peft | {"use_dora": False}, ["DoRA", "use_dora"]),
        "no_target": (foreign, None, ["zero valid target layers", "double_blocks.0.img_attn.qkv"]),
        "no_pair": ({"weight": normal(5, (4, 4))}, None, ["no adapter matrices", "1 keys"]),
        "half_a_pair": ({f"{BASE}.lora_A.weight": normal(6, (2, 192))}, None, ["no adapter matrices"]),
        "another_width": (narrow, None, [f"{ATTENTION}.to_q", "[rank, 192] and [192, rank]", "[2, 191] and [192, 2]"]),
        "integers": (integers, None, ["I32", "F32, F16 or BF16"]),
        "a_wide_alpha": (good | {f"{BASE}.alpha": normal(7, (2,))}, None, [f"{BASE}.alpha", "one element"]),
        "twice": (good | other, None, ["changed twice", f"{ATTENTION}.to_q"]),
        "another_method": (good, {"peft_type": "IA3"}, ["IA3", "LORA, LOKR or LOHA"]),
        "an_expression": (good, {"r": 2, "lora_alpha": 2, "alpha_pattern": {"(?=a)": 1}}, ["alpha_pattern", "(?=a)"]),
        "rank_zero": (good, {"r": 0, "lora_alpha": 2}, ["a rank is 0"]),
    }


def test_an_adapter_that_cannot_be_applied_is_refused_with_its_keys(daemon, family, transformer, tmp_path):
    for kind, (tensors, config, words) in bad_adapters(transformer).items():
        path = Adapter(tensors, {}, config).write(tmp_path / kind)
        request = asked([(path, 1.0)])
        code = Code.FAILED_PRECONDITION
        said, _ = refused(daemon, family, "transformer", code, "INVALID_ADAPTER", adapters=request)
        assert [word for word in [*words, str(path)] if word not in said] == [], f"{kind}: {said}"


def test_adapters_are_for_components_of_which_layers_are_known(daemon, family, transformer, tmp_path):
    path = Adapter(pair(transformer), {}).write(tmp_path / "adapter")
    folder = generic(tmp_path / "generic", {"layers.0.attention.to_q.weight": normal(1, (192, 192))})
    code, request = Code.FAILED_PRECONDITION, asked([(path, 1.0)])
    said, about = refused(daemon, folder, "model", code, "INVALID_ADAPTER", adapters=request)
    assert about == "model" and "model" in said
    for component in ("text_encoder", "vae"):
        said, _ = refused(daemon, family, component, code, "INVALID_ADAPTER", adapters=request)
        assert "zero valid target layers" in said


def test_two_files_are_not_one_adapter(daemon, family, transformer, tmp_path):
    path = Adapter(pair(transformer), {}).write(tmp_path / "adapter")
    save(pair(transformer), path / "another.safetensors")
    code, reason = Code.FAILED_PRECONDITION, "AMBIGUOUS_WEIGHTS"
    said, _ = refused(daemon, family, "transformer", code, reason, adapters=asked([(path, 1.0)]))
    assert "another.safetensors" in said
    missing = asked([(tmp_path / "nowhere", 1.0)])
    refused(daemon, family, "transformer", Code.NOT_FOUND, "PATH_NOT_FOUND", adapters=missing)


def test_a_refusal_leaves_nothing_behind(daemon, family, transformer, tmp_path):
    """Corrected, the same adapter is applied at once."""
    path = Adapter(pair(transformer) | {f"{BASE}.dora_scale": normal(4, (191, 1))}, {}).write(tmp_path / "adapter")
    request = asked([(path, 1.0)])
    refused(daemon, family, "transformer", Code.FAILED_PRECONDITION, "INVALID_ADAPTER", adapters=request)
    tensors = pair(transformer)
    save(tensors, path / "adapter.safetensors")
    adapter = Adapter(tensors, {f"{ATTENTION}.to_q": Added(product(*reversed(tensors.values())))})
    conversion = Conversion(deltas=summed([(adapter, 1.0)]))
    case = (daemon, family, "transformer", transformer, conversion, matrices(transformer))
    judge(*case, layout=SOURCE, adapters=request)


def test_half_an_adapter_is_refused_and_told_where_a_report_is_asked_for(daemon, family, transformer, tmp_path):
    """Blocks that are not there, tensors of another kind and halves of pairs refuse; other components' tensors do not."""
    good = pair(transformer, f"{FEED}.w2", f"transformer.{FEED}.w2")
    matrix = np.zeros((2, 2), F32)
    bases = ["transformer.layers.7.attention.to_q", "transformer.layers.8.attention.to_q"]
    bases.append("text_encoder.layers.0.self_attn.q_proj")
    left_out = {f"{base}.lora_{side}.weight": matrix for base in bases for side in "AB"}
    left_out |= {
        f"transformer.{ATTENTION}.to_k.lora_A.weight": matrix,
        f"transformer.{FEED}.w2.diff_b": matrix,
        f"transformer.{FEED}.w1.lokr_t1": matrix,
        "logit_scale": matrix,
    }
    path = Adapter(good | left_out, {}).write(tmp_path / "adapter")
    adapters = asked([(path, 0.25)])
    code = Code.FAILED_PRECONDITION
    said, _ = refused(daemon, family, "transformer", code, "INVALID_ADAPTER", adapters=adapters)
    named = [f"{ATTENTION}.to_k.lora_A.weight", f"{FEED}.w2.bias", f"{FEED}.w1.lokr_t1", "logit_scale", "layers.7"]
    assert [word for word in named if word not in said] == [], said
    adapter = Adapter(good, {f"{FEED}.w2": Added(product(*reversed(good.values())))})
    conversion = Conversion(deltas=summed([(adapter, 0.25)]))
    case = (daemon, family, "transformer", transformer, conversion, matrices(transformer))
    options = {"layout": SOURCE, "audit_policy": audit_pb2.AUDIT_POLICY_REPORT_ONLY}
    loaded = judge(*case, adapters=adapters, **options)
    (report,) = loaded.component.adapters
    assert str(path) in report.adapter
    assert (report.layers, report.scale, report.without_target, report.other_component) == (1, 0.25, 3, 2)
    assert list(report.without_target_sample) == [
        f"{FEED}.w2.bias", "layers.7.attention.to_q", "layers.8.attention.to_q",
    ]  # fmt: skip
    assert list(report.other_component_sample) == [f"{bases[2]}.lora_{side}.weight" for side in "AB"]
    remarks = " | ".join(report.remarks)
    for words in (f"{ATTENTION}.to_k.lora_A.weight", f"{FEED}.w1.lokr_t1", "logit_scale"):
        assert words in remarks, remarks


def test_each_refusal_has_a_hint_of_its_own(daemon, family, transformer, tmp_path):
    hints = {}
    for kind, (tensors, config, _) in bad_adapters(transformer).items():
        path = Adapter(tensors, {}, config).write(tmp_path / kind)
        with pytest.raises(grpc.RpcError) as raised:
            daemon.load(str(family), "transformer", adapters=asked([(path, 1.0)]))
        hints[kind] = error_detail(raised.value).hint
    assert "whole adapter" in hints["dora_of_peft"] and "dimensions" in hints["another_width"] and "F32" in hints["integers"]
    assert "one finite number" in hints["a_wide_alpha"] and "keep one" in hints["twice"]
    assert len(set(hints.values())) > 6, hints

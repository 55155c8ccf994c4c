"""Quantised and dequantised by the daemon, and by Python's MLX from the same bytes: equal, bit for bit."""

import json
import re
from pathlib import Path

import grpc
import mlx.core as mx
import numpy as np
import pytest
from daemon import error_detail
from derive_inputs import any_bits, edge_rows, generic, normal, save, small
from derive_judge import (
    AFFINE, AS_STORED, BF16, F16, F32, SCHEMES, WISHES, Conversion, Scheme, any_rule, chosen, dequantise, matrices,
    packed, quantise, rule,
)  # fmt: skip
from layouts import Tensors, read_component, read_file, to_original
from judged import in_component, in_manifest, judge, mlx_lm
from lent import COMPUTED, array, check, check_image, lent
from weights.v1 import component_pb2, model_pb2

SOURCE = component_pb2.LAYOUT_SOURCE
A4, A8 = Scheme("affine", 4, 64), Scheme("affine", 8, 32)
MXFP4, MXFP8, NVFP4 = SCHEMES[-3:]


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> tuple[Path, Tensors]:
    """Hard matrices of each type, and beside them what nobody quantises."""
    tensors = {
        f"{dtype}.{name}.weight": values for dtype in (F32, F16, BF16) for name, values in edge_rows(384, dtype).items()
    }
    tensors |= {
        "embed.weight": normal(1, (4, 128)),
        "norm.weight": normal(2, (4, 128)),
        "ragged.weight": normal(3, (5, 130)),
        "vector.weight": normal(4, (128,)),
        "cube.weight": normal(5, (2, 2, 128)),
        "integers.weight": any_bits(6, (4, 128), np.dtype(np.int32)),
        "doubles.weight": any_bits(7, (4, 128), np.dtype(np.float64)),
        "no_columns.weight": normal(8, (4, 0)),
        "bias": normal(9, (4, 128)),
    }
    return generic(tmp_path_factory.mktemp("rows") / "model", tensors), tensors


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_every_scheme_of_every_type_on_every_edge(daemon, rows, scheme):
    folder, tensors = rows
    layers = matrices(tensors)
    conversion = Conversion(ask=scheme, chosen=chosen(layers, scheme, any_rule))
    loaded = judge(daemon, folder, "model", tensors, conversion, layers)
    assert len(conversion.chosen) == 3 * len(edge_rows(128, F32)) + 1, "and the embedding"
    assert not any(tensor.operation == COMPUTED for tensor in loaded.tensors if not tensor.HasField("packing"))


@pytest.mark.parametrize("dtype", [BF16, F16, F32], ids=str)
@pytest.mark.parametrize("scheme", [A4, A8, NVFP4], ids=str)
def test_what_is_quantised_is_cast_before(daemon, rows, scheme, dtype):
    folder, tensors = rows
    layers = matrices(tensors)
    conversion = Conversion(dtype, scheme, chosen(layers, scheme, any_rule))
    judge(daemon, folder, "model", tensors, conversion, layers, dtype=WISHES[dtype])


@pytest.mark.parametrize("scheme", [Scheme("affine", 3, 128), NVFP4], ids=str)
def test_matrices_that_are_cut_into_pieces_are_quantised_as_a_whole(daemon, tmp_path, scheme):
    tensors = {"wide.weight": normal(1, (1279, 4096)), "bits.weight": any_bits(2, (4001, 2560), BF16)}
    tensors["wide.weight"][::7, ::5] = any_bits(3, (183, 820), F32)
    assert all(values.nbytes > 16 << 20 for values in tensors.values())
    layers = matrices(tensors)
    conversion = Conversion(ask=scheme, chosen=frozenset(layers))
    judge(daemon, generic(tmp_path / "large", tensors), "model", tensors, conversion, layers)


@pytest.mark.parametrize("scheme", [A4, Scheme("affine", 3, 32), MXFP4, MXFP8, NVFP4], ids=str)
def test_a_matrix_without_rows_stands_in_nobody_s_way(daemon, tmp_path, scheme):
    """MLX packs it in mode affine, and has no answer in others. Whatever becomes of it, the rest comes out right."""
    tensors = {"full.weight": normal(1, (3, 128)), "empty.weight": normal(2, (0, 128))}
    loaded = daemon.load(str(generic(tmp_path / "empty", tensors)), "model", quantise=scheme.message())
    found = lent(loaded)
    expected = packed("full", quantise(tensors["full.weight"], scheme), scheme)
    check({name: values for name, values in found.items() if name.startswith("full.")}, expected)
    assert found["empty.weight"].size == 0
    check_image(loaded)


@pytest.mark.parametrize("scheme", [A4, MXFP4, NVFP4], ids=str)
def test_a_packed_matrix_without_rows_stands_in_nobody_s_way(daemon, tmp_path, scheme):
    parts = quantise(normal(1, (3, 128)), scheme)
    tensors = packed("full", parts, scheme) | packed("empty", [part[:0] for part in parts], scheme)
    folder = generic(tmp_path / "empty", tensors, mlx_lm({"full": scheme, "empty": scheme}))
    found = lent(daemon.load(str(folder), "model", dequantise=True))
    check({"full.weight": found["full.weight"]}, {"full.weight": dequantise(parts, scheme)})
    assert found["empty.weight"].shape == (0, 128)


@pytest.mark.parametrize("component", ["transformer", "text_encoder"])
@pytest.mark.parametrize("scheme", [A8, A4, Scheme("affine", 6, 128), MXFP4, NVFP4], ids=str)
def test_the_family_s_rule_says_which_layers(daemon, family, component, scheme):
    """By the rule in section 7.2 of the facts: neither embedders, norms, the first and the last layer, nor what has no
    whole groups."""
    tensors = read_component(family / component)
    layers = matrices(tensors)
    picked = chosen(layers, scheme, rule)
    assert {layer.split(".")[-1] for layer in set(layers) - picked}, "something is left out"
    conversion = Conversion(BF16, scheme, picked)
    judge(daemon, family, component, tensors, conversion, layers, in_component(component))
    as_stored = Conversion(None, scheme, picked)
    judge(daemon, family, component, tensors, as_stored, layers, layout=SOURCE)


@pytest.mark.parametrize(
    ("only", "excluding", "picks"),
    [
        (["layers.*.feed_forward.w1"], [], r"layers\.\d+\.feed_forward\.w1"),
        (["*.to_q", "*.to_[kv]"], [], r".*\.to_[qkv]"),
        (["all_x_embedder.2-1", "t_embedder.*"], [], r"all_x_embedder\.2-1|t_embedder\..*"),
        (["*refiner*"], ["*.feed_forward.*", "noise_refiner.0.attention.to_q"], r"\w+_refiner\.0\.(attention|ada).*"),
        ([], ["*adaLN*", "layers.*"], r"\w+_refiner\.0\.(attention|feed).*"),
    ],
)
def test_patterns_say_which_layers(daemon, family, only, excluding, picks):
    """Layers that a pattern names are quantised whatever the rule says."""
    tensors = read_component(family / "transformer")
    layers = matrices(tensors)
    picked = frozenset(layer for layer in layers if re.fullmatch(picks, layer))
    picked -= {"noise_refiner.0.attention.to_q"} if "noise_refiner.0.attention.to_q" in excluding else set()
    assert picked
    conversion = Conversion(None, A8, picked)
    message = A8.message(only=only, excluding=excluding)
    judge(daemon, family, "transformer", tensors, conversion, layers, layout=SOURCE, quantise=message)


def test_rows_of_a_fused_tensor_are_quantised_from_where_they_lie(daemon, family, tmp_path):
    tensors = read_component(family / "transformer")
    file = save(to_original("transformer", tensors), tmp_path / "original.safetensors")
    layers, base = matrices(tensors), model_pb2.ModelSelector(spec=str(family))
    for scheme in (A8, NVFP4):
        conversion = Conversion(BF16, scheme, chosen(layers, scheme, rule))
        judge(daemon, file, "transformer", tensors, conversion, layers, in_component("transformer"), base=base)


@pytest.mark.parametrize("role", ["biases", "scales"])
def test_a_tensor_that_is_called_like_a_part_of_a_packed_layer_is_not_lent_under_its_name(daemon, tmp_path, role):
    """Refused or lent, but never two tensors of one name."""
    folder = generic(tmp_path / "model", {"a.weight": normal(1, (4, 64)), f"a.{role}": normal(2, (4,))})
    try:
        loaded = daemon.load(str(folder), "model", quantise=A4.message())
    except grpc.RpcError as error:
        assert error_detail(error).hint and error.code() != grpc.StatusCode.INTERNAL
        return
    names = [tensor.name for tensor in loaded.tensors]
    assert names == sorted(set(names))


def stored_layers() -> tuple[Tensors, dict[str, Scheme]]:
    """A layer in every scheme and type, quantised by MLX, and one of random bits, NaN scales included."""
    tensors, stored = {}, {}
    for scheme in SCHEMES:
        for dtype in (F32, F16, BF16) if scheme in AFFINE else (F32,):
            quantised = quantise(normal(11, (13, 256), dtype), scheme)
            layers = {
                f"{scheme}.{dtype}": quantised,
                f"{scheme}.{dtype}.random": [any_bits(12, part.shape, part.dtype) for part in quantised],
            }
            for layer, parts in layers.items():
                tensors |= packed(layer, parts, scheme)
                stored[layer] = scheme
    tensors |= {"plain.weight": normal(13, (5, 128)), "plain.bias": normal(14, (5,), F16)}
    return tensors, stored


@pytest.fixture(scope="module")
def quantised(tmp_path_factory) -> tuple[Path, Tensors, dict[str, Scheme]]:
    tensors, stored = stored_layers()
    return generic(tmp_path_factory.mktemp("quantised") / "model", tensors, mlx_lm(stored)), tensors, stored


@pytest.mark.parametrize("dtype", WISHES, ids=str)
def test_what_is_stored_in_any_scheme_is_lent_as_it_is_or_dequantised(daemon, quantised, dtype):
    folder, tensors, stored = quantised
    layers = matrices(tensors, stored)
    wish = WISHES[dtype]
    judge(daemon, folder, "model", tensors, Conversion(dtype, stored=stored), layers, dtype=wish)
    plain = Conversion(dtype, stored=stored, dequantise=True)
    judge(daemon, folder, "model", tensors, plain, layers, dtype=wish, dequantise=True)


@pytest.mark.parametrize("dtype", [None, BF16], ids=str)
@pytest.mark.parametrize("scheme", [Scheme("affine", 2, 128), A4, A8, MXFP4, MXFP8, NVFP4], ids=str)
def test_what_is_stored_in_another_scheme_is_quantised_anew(daemon, quantised, scheme, dtype):
    folder, tensors, stored = quantised
    layers = matrices(tensors, stored)
    conversion = Conversion(dtype, scheme, frozenset(layers), stored)
    loaded = judge(daemon, folder, "model", tensors, conversion, layers, dtype=WISHES[dtype])
    same = {f"{layer}.{role}" for layer, has in stored.items() if has == scheme for role in has.roles}
    assert same, "those that are so already are lent in place"
    assert not any(tensor.operation == COMPUTED for tensor in loaded.tensors if tensor.name in same)


@pytest.mark.parametrize("scheme", [A8, MXFP8], ids=str)
def test_packed_layers_that_are_cut_into_pieces_are_computed_as_a_whole(daemon, tmp_path, scheme):
    row = quantise(normal(1, (1, 16384), BF16), scheme)
    parts = [any_bits(3, (1021, part.shape[1]), part.dtype) for part in row]
    tensors, stored = packed("large", parts, scheme), {"large": scheme}
    assert sum(part.nbytes for part in parts) > 16 << 20
    folder = generic(tmp_path / "large", tensors, mlx_lm(stored))
    layers = matrices(tensors, stored)
    judge(daemon, folder, "model", tensors, Conversion(stored=stored, dequantise=True), layers, dequantise=True)
    judge(daemon, folder, "model", tensors, Conversion(None, A4, frozenset(layers), stored), layers)


@pytest.mark.parametrize("scheme", [A8, Scheme("affine", 4, 32), MXFP4], ids=str)
def test_a_manifest_of_zimage_swift_is_followed(daemon, tmp_path, scheme):
    root = small(tmp_path / "model")
    others = {"layers.0.feed_forward.w2": Scheme("affine", 5, 64)} if scheme in AFFINE else {}
    for component, (tensors, stored) in in_manifest(root, scheme, others).items():
        layers, named = matrices(tensors, stored), in_component(component)
        case = (daemon, root, component, tensors)
        judge(*case, Conversion(BF16, stored=stored), layers, named)
        judge(*case, Conversion(BF16, stored=stored, dequantise=True), layers, named, dequantise=True)
        plain = Conversion(None, stored=stored, dequantise=True)
        judge(*case, plain, layers, named, dequantise=True, dtype=AS_STORED)
        picked = chosen(layers, NVFP4, rule)
        judge(*case, Conversion(BF16, NVFP4, picked, stored), layers, named)


def test_a_config_of_mlx_lm_is_followed(daemon, tmp_path):
    """All modes, in one file as MLX writes it, whose tensors begin at any byte."""
    root = small(tmp_path / "model")
    tensors = read_component(root / "transformer")
    layers = matrices(tensors)
    schemes = [A4, A8, MXFP4, MXFP8, NVFP4]
    picked = sorted(chosen(layers, A4, rule))
    stored = {layer: schemes[number % len(schemes)] for number, layer in enumerate(picked)}
    for layer, scheme in stored.items():
        tensors |= packed(layer, quantise(tensors.pop(f"{layer}.weight"), scheme), scheme)
    config = json.loads((root / "transformer/config.json").read_text()) | mlx_lm(stored)
    (root / "transformer/config.json").write_text(json.dumps(config))
    for file in (root / "transformer").glob("*.safetensors*"):
        file.unlink()
    file = root / "transformer/diffusion_pytorch_model.safetensors"
    mx.save_safetensors(str(file), {name: array(values) for name, values in tensors.items()})
    check(read_file(file), tensors)
    named = in_component("transformer")
    case = (daemon, root, "transformer", tensors)
    judge(*case, Conversion(BF16, stored=stored), layers, named)
    judge(*case, Conversion(F16, stored=stored, dequantise=True), layers, named, dequantise=True, dtype=WISHES[F16])
    judge(*case, Conversion(BF16, MXFP8, chosen(layers, MXFP8, rule), stored), layers, named)

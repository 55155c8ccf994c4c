"""Weights to which the daemon adds adapters are those that Python's MLX adds up, bit for bit."""

from pathlib import Path

import numpy as np
import pytest
from checkpoints import TINY, Model, write_directory
from daemon import Loaded
from derive_adapters import ATTENTION, FEED, KINDS, Adapter, Added, Maker, asked, f32, product, summed
from derive_inputs import any_bits, save, small
from derive_judge import (
    AS_STORED, BF16, F16, F32, SCHEMES, WISHES, Conversion, Scheme, chosen, matrices, rule,
)  # fmt: skip
from judged import in_component, in_manifest, judge
from layouts import read_component
from weights.v1 import component_pb2

SOURCE = component_pb2.LAYOUT_SOURCE
PLAIN = component_pb2.MERGED_LAYERS_PLAIN
TRANSFORMER = in_component("transformer")
A8 = Scheme("affine", 8, 32)


def check_reports(loaded: Loaded, adapters: list[tuple[Adapter, float]]) -> None:
    reports = loaded.component.adapters
    found = [(report.layers, report.scale, report.without_target, report.other_component) for report in reports]
    assert found == [(len(adapter.layers), scale, 0, 0) for adapter, scale in adapters]
    for report, (adapter, _) in zip(reports, adapters, strict=True):
        assert len(report.remarks) == (adapter.remark is not None)
        assert (adapter.remark or "") in "".join(report.remarks)


@pytest.fixture(scope="module")
def adapters(transformer, tmp_path_factory) -> dict[str, tuple[Adapter, Path]]:
    maker, root = Maker(transformer), tmp_path_factory.mktemp("adapters")
    made = {kind: getattr(maker, kind)() for kind in KINDS}
    return {kind: (adapter, adapter.write(root / kind)) for kind, adapter in made.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_of_an_adapter_changes_the_layers_that_it_names(daemon, family, transformer, adapters, kind):
    adapter, path = adapters[kind]
    layers = matrices(transformer)
    for scale in (None, -0.7, 1e-3):
        deltas = summed([(adapter, 1.0 if scale is None else scale)])
        options = {"layout": SOURCE, "adapters": asked([(path, scale)])}
        loaded = judge(daemon, family, "transformer", transformer, Conversion(deltas=deltas), layers, **options)
        check_reports(loaded, [(adapter, 1.0 if scale is None else scale)])
        assert loaded.component.computed_bytes == sum(transformer[f"{layer}.weight"].nbytes for layer in deltas)


@pytest.mark.parametrize("dtype", WISHES, ids=str)
def test_several_adapters_are_added_in_their_order_and_cast_once(daemon, family, transformer, adapters, dtype):
    layers = matrices(transformer)
    scales = [1.0, -1.5, 0.3, 2.0, 0.1, -0.01, 1 / 3, 0.9, 1.1, -2.0, 0.7, 4.0]
    for order in (list(adapters), list(reversed(adapters))):
        several = [(adapters[kind], scale) for kind, scale in zip(order, scales, strict=True)]
        judged = [(adapter, scale) for (adapter, _), scale in several]
        request = asked([(path, scale) for (_, path), scale in several])
        conversion = Conversion(dtype, deltas=summed(judged))
        case = (daemon, family, "transformer", transformer, conversion, layers, TRANSFORMER)
        check_reports(judge(*case, adapters=request, dtype=WISHES[dtype]), judged)


def test_the_same_adapter_twice_counts_twice(daemon, family, transformer, adapters):
    adapter, path = adapters["kohya"]
    twice = [(adapter, 0.4), (adapter, 0.4)]
    conversion = Conversion(BF16, deltas=summed(twice))
    case = (daemon, family, "transformer", transformer, conversion, matrices(transformer), TRANSFORMER)
    judge(*case, adapters=asked([(path, 0.4)] * 2))


@pytest.mark.parametrize("scheme", [A8, Scheme("affine", 3, 64), *SCHEMES[-3:]], ids=str)
def test_quantised_layers_are_fused_and_quantised_again_or_stay_plain(
    daemon, family, transformer, adapters, tmp_path, scheme
):
    root = small(tmp_path / "model")
    tensors, stored = in_manifest(root, scheme, {})["transformer"]
    layers = matrices(tensors, stored)
    several = [(adapters[kind], scale) for kind, scale in (("peft", 0.8), ("lokr_factored", -0.5), ("diffusers", 1.0))]
    deltas = summed([(adapter, scale) for (adapter, _), scale in several])
    assert set(deltas) & set(stored) and set(deltas) - set(stored)
    request = asked([(path, scale) for (_, path), scale in several])
    case = (daemon, root, "transformer", tensors)
    common = (layers, TRANSFORMER)
    judge(*case, Conversion(BF16, stored=stored, deltas=deltas), *common, adapters=request)
    plain = Conversion(BF16, stored=stored, deltas=deltas, plain_where_fused=True)
    judge(*case, plain, *common, adapters=request, merged_layers=PLAIN)
    as_stored = Conversion(None, stored=stored, deltas=deltas, plain_where_fused=True)
    judge(*case, as_stored, *common, adapters=request, merged_layers=PLAIN, dtype=AS_STORED)
    unpacked = Conversion(F16, stored=stored, deltas=deltas, dequantise=True)
    judge(*case, unpacked, *common, adapters=request, dequantise=True, dtype=WISHES[F16])
    other = Scheme("affine", 4, 64)
    anew = Conversion(BF16, other, chosen(layers, other, rule), stored, deltas=deltas)
    judge(*case, anew, *common, adapters=request)


def test_plain_weights_are_fused_and_then_quantised(daemon, family, transformer, adapters):
    layers = matrices(transformer)
    several = [(adapters[kind], 0.6) for kind in ("fused", "mlx_lm", "loha")]
    deltas = summed([(adapter, scale) for (adapter, _), scale in several])
    request = asked([(path, scale) for (_, path), scale in several])
    for scheme in (A8, Scheme("mxfp4", 4, 32)):
        conversion = Conversion(BF16, scheme, chosen(layers, scheme, rule), deltas=deltas)
        judge(daemon, family, "transformer", transformer, conversion, layers, TRANSFORMER, adapters=request)


def test_the_text_encoder_is_changed_under_its_own_names(daemon, family, tmp_path):
    """BF16 weights, which are added to in F32 and rounded once."""
    tensors = read_component(family / "text_encoder")
    maker, layers, added = Maker(tensors, 100), matrices(tensors), {}
    files = {}
    names = {
        "model.layers.0.self_attn.q_proj": "lora_te_model_layers_0_self_attn_q_proj",
        "model.layers.1.mlp.down_proj": "text_encoder.model.layers.1.mlp.down_proj",
        "model.layers.1.self_attn.k_proj": "base_model.model.model.layers.1.self_attn.k_proj",
    }
    for layer, base in names.items():
        down, up = maker.pair(layer, 3, BF16)
        files |= {f"{base}.lora_A.weight": down, f"{base}.lora_B.weight": up, f"{base}.alpha": np.array(1.1, BF16)}
        added[layer] = Added(product(up, down), float(np.array(1.1, BF16)), 3)
    adapter = Adapter(files, added)
    conversion = Conversion(BF16, deltas=summed([(adapter, 0.9)]))
    request = asked([(adapter.write(tmp_path / "adapter"), 0.9)])
    named = in_component("text_encoder")
    check_reports(
        judge(daemon, family, "text_encoder", tensors, conversion, layers, named, adapters=request), [(adapter, 0.9)]
    )


def test_edges_go_through_a_sum(daemon, transformer, tmp_path):
    """Weights and matrices of any bits: infinities, NaNs, subnormals, sums that overflow."""
    root = small(tmp_path / "model")
    names = {F32: f"{ATTENTION}.to_q", F16: f"{ATTENTION}.to_k", BF16: f"{ATTENTION}.to_v"}
    tensors, files, added = dict(transformer), {}, {}
    for dtype, layer in names.items():
        shape = tensors[f"{layer}.weight"].shape
        tensors[f"{layer}.weight"] = any_bits(1, shape, dtype)
        files[f"{layer}.diff"] = any_bits(2, shape, dtype)
        added[layer] = Added(f32(files[f"{layer}.diff"]))
    down, up = (any_bits(3, shape, F32) for shape in Maker(tensors).pair_shapes(f"{FEED}.w1", 3))
    files |= {f"{FEED}.w1.lora_A.weight": down, f"{FEED}.w1.lora_B.weight": up}
    added[f"{FEED}.w1"] = Added(product(up, down))
    for file in (root / "transformer").glob("*.safetensors*"):
        file.unlink()
    save(tensors, root / "transformer/diffusion_pytorch_model.safetensors")
    adapter = Adapter(files, added)
    path = adapter.write(tmp_path / "adapter")
    for dtype, wish in WISHES.items():
        conversion = Conversion(dtype, deltas=summed([(adapter, -3.3)]))
        case = (daemon, root, "transformer", tensors, conversion, matrices(tensors))
        judge(*case, layout=SOURCE, dtype=wish, adapters=asked([(path, -3.3)]))


def test_large_products_are_those_of_the_whole_matrix(daemon, tmp_path):
    """Wide enough that MLX multiplies in blocks and in threads; fused, so that only some of the rows are multiplied."""
    config = TINY.transformer | {"dim": 480, "n_heads": 2, "n_kv_heads": 2, "axes_dims": [80, 80, 80]}
    config |= {"n_layers": 1, "n_refiner_layers": 1}
    root = write_directory(tmp_path / "model", Model(config, TINY.text_encoder, TINY.vae), seed=31).resolve()
    tensors = read_component(root / "transformer")
    maker = Maker(tensors, 200)
    kinds = (("fused", 0.3), ("lokr_factored", 2.0), ("loha", 1.0))
    several = [(getattr(maker, kind)(), scale) for kind, scale in kinds]
    down, up = maker.pair(f"{FEED}.w1", 128)
    pair = Adapter(
        {f"{FEED}.w1.lora_A.weight": down, f"{FEED}.w1.lora_B.weight": up}, {f"{FEED}.w1": Added(product(up, down))}
    )
    several.append((pair, -0.7))
    request = asked([(adapter.write(tmp_path / str(n)), scale) for n, (adapter, scale) in enumerate(several)])
    case = (daemon, root, "transformer", tensors, Conversion(deltas=summed(several)), matrices(tensors))
    judge(*case, layout=SOURCE, adapters=request)


def test_products_that_are_computed_in_pieces_are_those_of_the_whole(daemon, tmp_path):
    """Weights of more than a piece, whose rows fall into pieces of different heights; ranks below and above a block."""
    config = TINY.text_encoder | {"hidden_size": 1024, "intermediate_size": 8803, "num_hidden_layers": 1}
    root = write_directory(tmp_path / "model", Model(TINY.transformer, config, TINY.vae), seed=32).resolve()
    tensors = read_component(root / "text_encoder")
    maker, files, added = Maker(tensors, 300), {}, {}
    for name, rank in (("gate_proj", 5), ("down_proj", 96)):
        layer = f"model.layers.0.mlp.{name}"
        assert tensors[f"{layer}.weight"].nbytes > 16 << 20
        down, up = maker.pair(layer, rank)
        files |= {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
        added[layer] = Added(product(up, down))
    adapter = Adapter(files, added)
    asks = asked([(adapter.write(tmp_path / "adapter"), 1.7)])
    for dtype in (BF16, F32):
        conversion = Conversion(dtype, deltas=summed([(adapter, 1.7)]))
        case = (daemon, root, "text_encoder", tensors, conversion, matrices(tensors), in_component("text_encoder"))
        judge(*case, dtype=WISHES[dtype], adapters=asks)

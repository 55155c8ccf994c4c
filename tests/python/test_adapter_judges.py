"""DoRA, cores and kernels: what the libraries that write such adapters make of them themselves."""

import grpc
import ml_dtypes
import numpy as np
import pytest
from adapter_judges import LINEARS, lycoris, mlx_lm, mlx_lm_experts, peft, peft_several, whole_weights
from checkpoints import write_directory
from derive_adapters import asked
from derive_inputs import save, small
from derive_judge import to_ohwi
from language_models import of_mlx_lm
from layouts import read_component
from lent import check, lent
from mflux import saved, write
from safetensors.numpy import load_file
from weights.v1 import component_pb2, model_pb2

SOURCE, F32 = component_pb2.LAYOUT_SOURCE, component_pb2.FLOAT_TYPE_F32
BF16 = component_pb2.FLOAT_TYPE_BF16
KERNELS = ["encoder.conv_in", "decoder.up_blocks.0.resnets.0.conv1", "encoder.mid_block.attentions.0.to_q"]
STORED = {"layout": SOURCE, "dtype": F32}


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """A model whose transformer and autoencoder have whole numbers, and the tensors of both."""
    root = small(tmp_path_factory.mktemp("exact") / "model")
    tensors = {}
    for component in ("transformer", "vae"):
        tensors[component] = whole_weights(read_component(root / component))
        for file in (root / component).glob("*.safetensors*"):
            file.unlink()
        save(tensors[component], root / component / "diffusion_pytorch_model.safetensors")
    return root, tensors


def loaded_with(daemon, root, judged, component="transformer", scale=None, **options):
    loaded = daemon.load(str(root), component, adapters=asked([(judged.folder, scale)]), **(STORED | options))
    return lent(loaded), loaded.component.adapters[0]


@pytest.mark.parametrize(
    "config",
    [{}, {"use_rslora": True, "lora_alpha": 4}, {"rank_pattern": {"to_q": 2}, "alpha_pattern": {"w2": 16}}],
    ids=["plain", "rslora", "patterns"],
)
def test_dora_of_peft_is_what_peft_merges(daemon, exact, tmp_path, config):
    root, tensors = exact
    judged = peft(tmp_path / "dora", tensors["transformer"], LINEARS, **config)
    found, report = loaded_with(daemon, root, judged)
    check(found, tensors["transformer"] | judged.weights)
    assert report.layers == len(LINEARS) and "DoRA: 4 layers" in report.remarks[0]


def test_dora_of_kernels_is_what_peft_merges(daemon, exact, tmp_path):
    """PEFT writes the magnitudes of a kernel's rows as `[1, rows, 1, 1]`."""
    root, tensors = exact
    judged = peft(tmp_path / "dora", tensors["vae"], KERNELS)
    found, _ = loaded_with(daemon, root, judged, "vae")
    check(found, tensors["vae"] | judged.weights)
    plain = peft(tmp_path / "lora", tensors["vae"], KERNELS, use_dora=False)
    found, _ = loaded_with(daemon, root, plain, "vae")
    check(found, tensors["vae"] | plain.weights)


def test_the_scale_is_inside_of_the_norm_as_in_peft(daemon, exact, tmp_path):
    """PEFT's `set_scale` multiplies the strength; so does another `lora_alpha` in its config."""
    root, tensors = exact
    judged = peft(tmp_path / "as_trained", tensors["transformer"], LINEARS)
    doubled = peft(tmp_path / "doubled", tensors["transformer"], LINEARS, lora_alpha=16)
    found, report = loaded_with(daemon, root, judged, scale=2.0)
    check(found, tensors["transformer"] | doubled.weights)
    assert "inside of the norm" in report.remarks[0]


def test_several_adapters_are_merged_in_their_order_as_peft_does(daemon, exact, tmp_path):
    root, tensors = exact
    made = [
        peft(tmp_path / "first", tensors["transformer"], LINEARS, seed=10),
        peft(tmp_path / "plain", tensors["transformer"], LINEARS, seed=20, use_dora=False),
        peft(tmp_path / "last", tensors["transformer"], LINEARS, seed=30),
    ]
    for order in (made, made[::-1]):
        folders = [judged.folder for judged in order]
        adapters = asked([(folder, None) for folder in folders])
        found = lent(daemon.load(str(root), "transformer", adapters=adapters, **STORED))
        merged = peft_several(folders, tensors["transformer"], LINEARS)
        # PEFT unmerges to find the weight before, which rounds; weightsd has kept it.
        expected = {name: merged.get(name, values) for name, values in tensors["transformer"].items()}
        for name, values in expected.items():
            assert np.allclose(found[name], values, rtol=2e-6, atol=1e-4), name


@pytest.mark.parametrize("kind", ["locon", "lokr", "loha"])
@pytest.mark.parametrize("rows", [True, False], ids=["rows", "columns"])
def test_dora_of_lycoris_is_what_lycoris_trains(daemon, exact, tmp_path, kind, rows):
    """It adds the epsilon of F32 to norms, which none of these is small enough to show."""
    root, tensors = exact
    options = {"weight_decompose": True, "wd_on_out": rows, "alpha": 8 if kind != "loha" else 2}
    judged = lycoris(tmp_path / kind, tensors["transformer"], LINEARS, kind, **options)
    found, report = loaded_with(daemon, root, judged)
    check(found, tensors["transformer"] | judged.weights)
    assert "DoRA: 4 layers" in report.remarks[0]


@pytest.mark.parametrize("kind", ["locon", "lokr", "loha"])
@pytest.mark.parametrize("options", [{"use_tucker": True}, {}, {"use_tucker": True, "weight_decompose": True}],
                         ids=["core", "flat", "core-dora"])  # fmt: skip
def test_kernels_of_lycoris_are_what_lycoris_trains(daemon, exact, tmp_path, kind, options):
    root, tensors = exact
    # Factors of the whole width, since LyCORIS factors no small ones.
    rank = {"lora_dim": 4, "alpha": 2, "factor": 1} if kind == "lokr" else {"alpha": 2}
    judged = lycoris(tmp_path / kind, tensors["vae"], KERNELS, kind, **options, **rank)
    if options.get("use_tucker"):
        with open(judged.folder / "style.safetensors", "rb") as file:
            head = file.read(10_000)
        assert any(core in head for core in (b"lora_mid", b"lokr_t2", b"hada_t1"))
    found, _ = loaded_with(daemon, root, judged, "vae")
    check(found, tensors["vae"] | judged.weights)
    # For modules of MLX the sum is reordered.
    found, _ = loaded_with(daemon, root, judged, "vae", layout=component_pb2.LAYOUT_MLX)
    conv = "encoder.conv_in.weight"
    assert np.array_equal(found[conv], to_ohwi(judged.weights[conv]))


def test_kernels_that_lie_in_the_order_of_mlx_are_changed_in_theirs(daemon, tmp_path):
    """A model as mflux saves it: kernels OHWI in the files, and an adapter for OIHW."""
    published = write_directory(tmp_path / "published")
    tensors = whole_weights(read_component(published / "vae"))
    folder = write(tmp_path / "mflux", {"vae": saved("vae", tensors)}, 20_000)
    base = model_pb2.ModelSelector(spec=str(published))
    for name, options in (("core", {"use_tucker": True}), ("dora", {"weight_decompose": True, "wd_on_out": False})):
        judged = lycoris(tmp_path / name, tensors, KERNELS, "locon", **options)
        found, _ = loaded_with(daemon, folder, judged, "vae", base=base)
        check(found, tensors | judged.weights)
        found, _ = loaded_with(daemon, folder, judged, "vae", base=base, layout=component_pb2.LAYOUT_MLX)
        conv = next(name for name in found if name.startswith("encoder.conv_in") and name.endswith("weight"))
        assert np.array_equal(found[conv], to_ohwi(judged.weights["encoder.conv_in.weight"]))


def test_dora_of_mlx_lm_is_what_mlx_lm_fuses(daemon, exact, tmp_path):
    root, tensors = exact
    judged = mlx_lm(tmp_path / "mlx", tensors["transformer"], LINEARS)
    found, report = loaded_with(daemon, root, judged)
    check(found, tensors["transformer"] | judged.weights)
    assert "DoRA: 4 layers" in report.remarks[0]


@pytest.mark.parametrize("rank", [1, 4])
def test_lora_of_stacked_experts_is_what_mlx_lm_fuses(daemon, tmp_path, rank):
    root = of_mlx_lm(tmp_path / "model", "qwen3_moe")
    tensors = whole_weights(read_component(root))
    save(tensors, root / "model.safetensors")
    layers = [name.removesuffix(".weight") for name, values in tensors.items() if values.ndim == 3 and "switch_mlp" in name]
    judged = mlx_lm_experts(tmp_path / "lora", tensors, layers[:-1], rank=rank)
    found, report = loaded_with(daemon, root, judged, "model")
    check(found, tensors | judged.weights)
    assert report.layers == len(layers) - 1 > 3
    doubled, _ = loaded_with(daemon, root, judged, "model", scale=2.0)
    check(doubled, tensors | {name: 2 * values - tensors[name] for name, values in judged.weights.items()})


def test_lora_of_other_experts_is_refused_by_name(daemon, tmp_path):
    root = of_mlx_lm(tmp_path / "model", "qwen3_moe")
    tensors = read_component(root)
    layer = "model.layers.0.mlp.switch_mlp.gate_proj"
    fewer = {f"{layer}.weight": tensors[f"{layer}.weight"][:-1]}
    judged = mlx_lm_experts(tmp_path / "lora", whole_weights(fewer), [layer])
    with pytest.raises(grpc.RpcError) as raised:
        loaded_with(daemon, root, judged, "model")
    experts, rows, columns = tensors[f"{layer}.weight"].shape
    assert f"[{experts}, rank, {columns}] and [{experts}, {rows}, rank]" in raised.value.details(), raised.value.details()


@pytest.mark.parametrize("dtype", [F32, BF16], ids=["f32", "bf16"])
def test_numbers_of_all_sizes_differ_from_peft_by_roundings_alone(daemon, transformer, family, tmp_path, dtype):
    """PEFT and MLX sum products in different orders: 24 bits after a norm of 192 terms. In BF16 weightsd rounds once, from
    F32; PEFT, asked for BF16, would round sum, factor and product, so F32 is its answer here too."""
    judged = peft(tmp_path / "dora", transformer, LINEARS, is_exact=False)
    found, _ = loaded_with(daemon, family, judged, dtype=dtype)
    for layer in LINEARS:
        expected, values = judged.weights[f"{layer}.weight"], found[f"{layer}.weight"]
        if dtype == BF16:
            step = np.abs(expected) * 2.0**-8
            assert np.all(np.abs(values.astype(np.float32) - expected) <= step * 1.01 + 1e-6), layer
            near = expected.astype(ml_dtypes.bfloat16)
            assert np.mean(near == values) > 0.999, layer
        else:
            assert np.allclose(values, expected, rtol=4e-6, atol=4e-6), layer


def test_a_row_without_direction_stays_as_it_is(daemon, exact, tmp_path):
    """PEFT makes NaNs of it; LyCORIS leaves zeros."""
    root, tensors = exact
    weights = dict(tensors["transformer"])
    layer = f"{LINEARS[0]}.weight"
    weights[layer] = weights[layer].copy()
    weights[layer][3] = 0
    changed = small(tmp_path / "model")
    for file in (changed / "transformer").glob("*.safetensors*"):
        file.unlink()
    save(weights, changed / "transformer/diffusion_pytorch_model.safetensors")
    judged = lycoris(tmp_path / "dora", weights, LINEARS[:1], "locon", weight_decompose=True)
    file = judged.folder / "style.safetensors"
    adapter = load_file(file)
    up = next(name for name in adapter if name.endswith("lora_up.weight"))
    adapter[up][3] = 0
    save(adapter, file)
    found, _ = loaded_with(daemon, changed, judged)
    assert np.array_equal(found[layer][3], np.zeros_like(found[layer][3]))
    others = np.arange(len(found[layer])) != 3
    assert np.array_equal(found[layer][others], judged.weights[layer][others])

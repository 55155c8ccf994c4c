"""What the daemon computes is what Python's MLX computes from the same bytes, bit for bit: casts and kernels, and the
image in which they lie."""

from pathlib import Path

import grpc
import numpy as np
import pytest
from checkpoints import TINY, Model, write_directory
from daemon import DEADLINE, Daemon, Loaded, error_detail
from derive_inputs import any_bits, edge_tensors, edges, generic, normal, save
from derive_judge import AS_STORED, BF16, F16, F32, WISHES, cast, in_mlx
from layouts import Tensors, read_component, to_original
from lent import COMPUTED, check, check_image, lent
from mflux import saved
from safetensors import safe_open
from weights.v1 import component_pb2, event_pb2, model_pb2, weights_service_pb2

MLX, SOURCE = component_pb2.LAYOUT_MLX, component_pb2.LAYOUT_SOURCE
COMPONENTS = ("transformer", "text_encoder", "vae")


def derive(daemon: Daemon, spec: Path, component: str = "model", **options) -> Loaded:
    loaded = daemon.load(str(spec), component, **options)
    check_image(loaded)
    return loaded


def derivations(daemon: Daemon) -> list[str]:
    """Ids of what was computed until now."""
    request = weights_service_pb2.WatchEventsRequest(past_only=True)
    events = [message.event for message in daemon.weights.WatchEvents(request, timeout=DEADLINE)]
    return [event.component_id for event in events if event.kind == event_pb2.EVENT_KIND_DERIVED]


def selector(path: Path) -> model_pb2.ModelSelector:
    return model_pb2.ModelSelector(spec=str(path))


def in_all(tensors: Tensors, dtype: np.dtype | None) -> Tensors:
    return {name: cast(values, dtype) for name, values in tensors.items()}


@pytest.mark.parametrize("dtype", WISHES, ids=str)
def test_floats_are_cast_and_nothing_else_is(daemon, tmp_path, dtype):
    tensors = edge_tensors()
    loaded = derive(daemon, generic(tmp_path / "edges", tensors), dtype=WISHES[dtype])
    check(lent(loaded), in_all(tensors, dtype))
    floats = {name for name, values in tensors.items() if values.dtype in (F32, F16, BF16)}
    computed = {tensor.name for tensor in loaded.tensors if tensor.operation == COMPUTED}
    assert computed == ({name for name in floats if tensors[name].dtype != dtype} if dtype else set())


@pytest.mark.parametrize("dtype", [BF16, F16, F32], ids=str)
def test_tensors_that_are_cut_into_pieces_are_cast_as_a_whole(daemon, tmp_path, dtype):
    """Prime rows and odd columns, and every pattern of bits: a piece ends where no vector instruction does."""
    tensors = {
        "f32": any_bits(1, (10007, 1009), F32),
        "f16": any_bits(2, (4099, 5003), F16),
        "bf16": any_bits(3, (4099, 5003), BF16),
        "one_row": any_bits(4, (1, 6_000_011), F32),
        "vector": any_bits(5, (6_000_011,), F32),
        "column": any_bits(6, (6_000_011, 1), F32),
    }
    loaded = derive(daemon, generic(tmp_path / "large", tensors), dtype=WISHES[dtype])
    check(lent(loaded), in_all(tensors, dtype))


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize(
    ("layout", "wish", "dtype"),
    [(MLX, None, BF16), (SOURCE, None, None)]
    + [(layout, wish, dtype) for layout in (MLX, SOURCE) for dtype, wish in WISHES.items()],
)
def test_a_component_has_the_dtype_of_its_family_unless_another_is_wished(
    daemon, model, component, layout, wish, dtype
):
    tensors = read_component(model / component)
    expected = in_mlx(component, tensors) if layout == MLX else tensors
    options = {} if wish is None else {"dtype": wish}
    loaded = derive(daemon, model, component, layout=layout, **options)
    check(lent(loaded), in_all(expected, dtype))
    assert loaded.component.audit.clean


def test_kernels_of_one_pixel_and_of_one_channel_keep_their_bytes(daemon, tmp_path):
    config = {"block_out_channels": [1, 8, 1, 16], "norm_num_groups": 1, "in_channels": 1, "out_channels": 1}
    config |= {"latent_channels": 1, "use_quant_conv": True, "use_post_quant_conv": True}
    folder = write_directory(tmp_path / "odd", Model(TINY.transformer, TINY.text_encoder, TINY.vae | config))
    kernels = {"post_quant_conv": (1, 1, 1, 1), "quant_conv": (2, 2, 1, 1)}
    quant = {f"{name}.weight": normal(1, shape, BF16) for name, shape in kernels.items()}
    quant |= {f"{name}.bias": normal(2, shape[:1], BF16) for name, shape in kernels.items()}
    tensors = read_component(folder / "vae") | quant
    save(tensors, folder / "vae/diffusion_pytorch_model.safetensors")
    expected = in_mlx("vae", tensors)
    loaded = derive(daemon, folder, "vae")
    check(lent(loaded), expected)
    kernels = {name: values.shape for name, values in tensors.items() if values.ndim == 4}
    in_place = {name for name, (_, channels, height, _) in kernels.items() if 1 in (channels, height)}
    assert len(in_place) > 8
    operations = {tensor.name: tensor.operation for tensor in loaded.tensors}
    assert COMPUTED not in {operations[name] for name in in_place}
    check(lent(derive(daemon, folder, "vae", dtype=WISHES[F16])), in_all(expected, F16))


@pytest.mark.parametrize("dtype", WISHES, ids=str)
def test_kernels_hold_every_edge_and_are_cut_into_pieces(daemon, tmp_path, dtype):
    """Few high rows in one, many low ones in the other; both are larger than a piece."""
    config = TINY.vae | {"in_channels": 150_001, "out_channels": 150_001}
    folder = write_directory(tmp_path / "wide", Model(TINY.transformer, TINY.text_encoder, config))
    tensors = read_component(folder / "vae")
    tensors = {name: np.resize(edges(F32), values.shape) for name, values in tensors.items()}
    for number, name in enumerate(("encoder.conv_in.weight", "decoder.conv_out.weight")):
        tensors[name] = any_bits(number, tensors[name].shape, F32)
        assert tensors[name].nbytes > 16 << 20
    save(tensors, folder / "vae/diffusion_pytorch_model.safetensors")
    check(lent(derive(daemon, folder, "vae", dtype=WISHES[dtype])), in_all(in_mlx("vae", tensors), dtype))


@pytest.mark.parametrize("wish", [BF16, F32], ids=str)
def test_another_layout_becomes_the_same_modules(daemon, model, tmp_path, wish):
    """Rows of a fused tensor, and kernels that stand for matrices, are computed from where they lie."""
    for component in ("transformer", "vae"):
        tensors = read_component(model / component)
        file = save(to_original(component, tensors), tmp_path / f"{component}.safetensors")
        loaded = derive(daemon, file, component, base=selector(model), dtype=WISHES[wish])
        check(lent(loaded), in_all(in_mlx(component, tensors), wish))


@pytest.mark.parametrize("wish", WISHES, ids=str)
def test_a_file_laid_over_a_model_is_cast_with_it(daemon, model, tmp_path, wish):
    tensors = read_component(model / "transformer")
    some = {name: normal(1, values.shape, BF16) for name, values in tensors.items() if ".attention." in name}
    overlay = selector(save(some, tmp_path / "overlay.safetensors"))
    loaded = derive(daemon, model, "transformer", overlay=overlay, dtype=WISHES[wish])
    check(lent(loaded), in_all(in_mlx("transformer", tensors | some), wish))


@pytest.mark.parametrize("wish", WISHES, ids=str)
def test_kernels_in_the_order_of_mlx_are_not_reordered_again(daemon, tmp_path, wish):
    folder = write_directory(tmp_path / "mflux")
    tensors = read_component(folder / "vae")
    save(saved("vae", tensors), folder / "vae/diffusion_pytorch_model.safetensors", {"mflux_version": "0.9.0"})
    loaded = derive(daemon, folder, "vae", dtype=WISHES[wish])
    check(lent(loaded), in_all(in_mlx("vae", tensors), wish))


@pytest.mark.parametrize("wish", WISHES, ids=str)
def test_the_published_layout_has_the_published_order_of_kernels(daemon, tmp_path, wish):
    """`encoder.conv_in.weight` is [128, 3, 3, 3] in both orders: only its numbers tell."""
    folder = write_directory(tmp_path / "mflux")
    tensors = read_component(folder / "vae")
    save(saved("vae", tensors), folder / "vae/diffusion_pytorch_model.safetensors", {"mflux_version": "0.9.0"})
    loaded = derive(daemon, folder, "vae", dtype=WISHES[wish], layout=SOURCE)
    check(lent(loaded), in_all(tensors, wish))


def test_a_tensor_that_is_called_like_the_room_leaves_the_image_readable(daemon, tmp_path):
    """Refused or lent, but no file that nobody can read."""
    tensors = {"__weightsd_room__.0": normal(1, (3,)), "__weightsd_room__.1": normal(2, (3,)), "z": normal(3, (3,))}
    folder = generic(tmp_path / "room", tensors)
    try:
        loaded = daemon.load(str(folder), "model", dtype=WISHES[BF16])
    except grpc.RpcError as error:
        assert error_detail(error).hint and error.code() != grpc.StatusCode.INTERNAL
        return
    check(lent(loaded), in_all(tensors, BF16))
    with safe_open(loaded.component.image.path, framework="np") as opened:
        assert len(opened.keys()) >= len(tensors)


def test_what_was_computed_is_not_computed_again(daemon, model):
    first = derive(daemon, model, "vae", dtype=WISHES[F32])
    assert derivations(daemon).count(first.component.id) == 1
    again = derive(daemon, model, "vae", dtype=WISHES[F32])
    assert again.component.image.path == first.component.image.path
    assert (again.component.warm, again.component.id) == (True, first.component.id)
    assert derivations(daemon).count(first.component.id) == 1


def test_a_hundred_small_images_in_a_row_are_all_there(daemon, tmp_path):
    """The process that computes ends while the daemon publishes: neither may take the image from the other."""
    for number in range(100):
        tensors = {"a": normal(number, (2, 3))}
        loaded = daemon.load(str(generic(tmp_path / str(number), tensors)), "model", dtype=WISHES[BF16])
        check(lent(loaded), in_all(tensors, BF16))


def test_another_daemon_finds_what_was_computed(model, tmp_path):
    requests = {"transformer": {}, "vae": {"dtype": AS_STORED}}
    with Daemon(home=tmp_path) as daemon:
        before = {name: derive(daemon, model, name, **options) for name, options in requests.items()}
        bytes_before = {name: lent(loaded) for name, loaded in before.items()}
        assert len(derivations(daemon)) == 2
        for loaded in before.values():
            assert Path(loaded.component.image.path).is_relative_to(tmp_path)
            assert loaded.component.timings.derive.ToNanoseconds() > 0
    with Daemon(home=tmp_path) as daemon:
        for name, options in requests.items():
            loaded = derive(daemon, model, name, **options)
            component = loaded.component
            assert (component.id, component.image.path) == (
                before[name].component.id,
                before[name].component.image.path,
            )
            assert not component.warm
            assert component.timings.derive.ToNanoseconds() == 0
            check(lent(loaded), bytes_before[name])
        assert derivations(daemon) == []

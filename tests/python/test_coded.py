"""Layers in formats that MLX does not have, and that weightsd makes plain: bit for bit what torch and ComfyUI's own code make
of them. Products are computed in F32 and rounded once; ComfyUI itself rounds scale and product to BF16."""

import json

import grpc
import mlx.core as mx
import numpy as np
import pytest
from checkpoints import Z_IMAGE_TURBO, transformer_shapes
from coded_judge import BF16, CASTS, E4M3, FORMATS, Coded, normal, rounded
from daemon import error_detail
from derive_inputs import generic, save, small
from derive_judge import Scheme, packed, quantise
from layouts import Tensors, read_component, same, transformer_to_original
from lent import array, bits_of, lent, numpy
from weights.v1 import component_pb2, model_pb2

F32, F16 = np.dtype(np.float32), np.dtype(np.float16)
FLOATS = {BF16: component_pb2.FLOAT_TYPE_BF16, F16: component_pb2.FLOAT_TYPE_F16, F32: component_pb2.FLOAT_TYPE_F32}
SOURCE = component_pb2.LAYOUT_SOURCE
NOBODY = {"model_type": "nobody_knows"}


def name(layer: str) -> str:
    return layer.replace(" ", "_")


def equal(found: np.ndarray, expected: np.ndarray) -> bool:
    """Equal in every bit, and NaN where NaN is expected: nobody promises which."""
    if (found.dtype, found.shape) != (expected.dtype, expected.shape):
        return False
    nan = np.isnan(expected.astype(np.float32))
    return bool((np.isnan(found.astype(np.float32)) == nan).all() and (bits_of(found) == bits_of(expected))[~nan.reshape(-1)].all())


def model(folder, layers: dict[str, Coded]):
    tensors: Tensors = {"norm.weight": normal(99, (64,))}
    for at, (layer, coded) in enumerate(layers.items()):
        tensors |= coded.under(name(layer), padding=at % 3)
    return generic(folder, tensors, NOBODY), tensors


@pytest.fixture(scope="module")
def layers() -> dict[str, Coded]:
    return {layer: make() for layer, make in FORMATS.items()}


@pytest.mark.parametrize("kind", FLOATS, ids=str)
def test_every_format_has_the_bits_of_its_judge(daemon, tmp_path, layers, kind):
    folder, tensors = model(tmp_path / "model", layers)
    found = lent(daemon.load(str(folder), "model", dequantise=True, dtype=FLOATS[kind]))
    assert found.keys() == {"norm.weight"} | {f"{name(layer)}.weight" for layer in layers}
    wrong = [layer for layer, it in layers.items() if not equal(found[f"{name(layer)}.weight"], rounded(it.plain, kind))]
    assert wrong == []
    # As they are stored, when nobody asks for anything.
    stored = lent(daemon.load(str(folder), "model"))
    assert stored.keys() == tensors.keys() and all(same(stored[key], tensors[key]) for key in tensors)


def test_a_rotation_is_met_within_the_rounding_of_the_judges_sum(layers):
    """ComfyUI multiplies matrices in F32; here the sum of codes is exact and the product is rounded once."""
    for layer, coded in layers.items():
        if coded.judged is not None:
            largest = np.abs(coded.plain).max(axis=1, keepdims=True)
            assert (np.abs(coded.judged - coded.plain) <= coded.bound * largest).all(), layer


@pytest.mark.parametrize("kind", FLOATS, ids=str)
def test_a_plain_cast_is_cast_back(daemon, tmp_path, kind):
    layers = {layer: make() for layer, make in CASTS.items()}
    folder, _ = model(tmp_path / "model", layers)
    found = lent(daemon.load(str(folder), "model", dtype=FLOATS[kind]))
    for layer, coded in layers.items():
        assert equal(found[f"{name(layer)}.weight"], rounded(coded.plain, kind)), layer


@pytest.mark.parametrize("scheme", [Scheme("affine", 4, 32), Scheme("affine", 8, 64), Scheme("mxfp4", 4, 32), Scheme("nvfp4", 4, 16)], ids=str)
def test_coded_layers_go_straight_into_mlx(daemon, tmp_path, layers, scheme):
    """As if the plain weights had been quantised."""
    chosen = {layer: it for layer, it in layers.items() if layer in ("e4m3 scalar", "convrot 256", "nvfp4", "mxfp8", "awq")}
    folder, _ = model(tmp_path / "model", chosen)
    only = [name(layer) for layer in chosen if chosen[layer].plain.shape[1] % scheme.group_size == 0]
    found = lent(daemon.load(str(folder), "model", quantise=scheme.message(only=only), dtype=FLOATS[BF16]))
    for layer in only:
        parts = quantise(rounded(chosen[layer.replace("_", " ")].plain, BF16), scheme)
        for suffix, values in packed(layer, parts, scheme).items():
            assert same(found[suffix], values), suffix


def test_mxfp8_becomes_mlxs_mxfp8_without_loss(daemon, tmp_path, layers):
    chosen = {layer: layers[layer] for layer in ("mxfp8", "mxfp8 in bytes")}
    folder, _ = model(tmp_path / "model", chosen)
    scheme = Scheme("mxfp8", 8, 32)
    found = lent(daemon.load(str(folder), "model", quantise=scheme.message(only=["mxfp8*"])))
    for layer, coded in chosen.items():
        codes, scales = found[f"{name(layer)}.weight"], found[f"{name(layer)}.scales"]
        stored = coded.tensors["weight"].view(np.uint8)
        kept = scales.repeat(32, axis=1) != 0
        assert (codes.view(np.uint8)[kept] == stored[kept]).all(), "no code is computed anew"
        plain = mx.dequantize(array(codes), array(scales), None, **scheme.keywords)
        expected, plain = rounded(coded.plain, BF16), numpy(plain)
        # MLX multiplies in BF16, where an infinite power of two is none; numbers that BF16 holds are the same.
        usual = np.isfinite(expected.astype(F32)) & (scales != 255).repeat(32, axis=1) & (scales > 20).repeat(32, axis=1)
        assert (bits_of(plain) == bits_of(expected))[usual.reshape(-1)].all(), layer


def zimage(folder, change) -> Tensors:
    """A small Z-Image whose transformer is saved in the publisher's names, changed by `change`."""
    tensors = transformer_to_original(read_component(small(folder) / "transformer"))
    out: Tensors = {}
    for key, values in tensors.items():
        layer = key.removesuffix(".weight")
        is_coded = values.ndim == 2 and key.startswith("layers.") and layer != key
        out |= change(layer, values) if is_coded else {key: values}
    for file in (folder / "transformer").glob("*.safetensors*"):
        file.unlink()
    save(out, folder / "transformer/diffusion_pytorch_model.safetensors")
    return tensors


def rowwise(layer: str, values: np.ndarray) -> Tensors:
    scales = (np.abs(values).max(axis=1, keepdims=True) / 448).astype(F32)
    return Coded({"weight": (values / scales).astype(E4M3), "weight_scale": scales}, values, {"format": "float8_e4m3fn"}).under(layer)


def test_layout_mlx_of_a_scaled_file_is_plain_and_says_so(daemon, tmp_path):
    """Fused attention is taken apart with its scales, and the answer says what was computed from what."""
    zimage(tmp_path / "model", rowwise)
    stored = read_component(tmp_path / "model/transformer")
    loaded = daemon.load(str(tmp_path / "model"), "transformer")
    assert any("scaled FP8" in remark and "BF16" in remark for remark in loaded.component.audit.remarks)
    found, tensors = lent(loaded), {tensor.name: tensor for tensor in loaded.tensors}
    assert {values.dtype for values in found.values()} == {BF16}
    fused = stored["layers.0.attention.qkv.weight"].astype(F32) * stored["layers.0.attention.qkv.weight_scale"]
    for part, expected in zip("qkv", np.split(fused, 3), strict=True):
        key = f"layers.0.attention.to_{part}.weight"
        assert equal(found[key], rounded(np.ascontiguousarray(expected), BF16)), key
        coding = tensors[key].coding
        assert (coding.format, coding.codes, coding.provenance) == ("scaled FP8", "E4M3", "`.comfy_quant`")
        assert list(coding.block) == [1, expected.shape[1]] and list(coding.logical_shape) == list(expected.shape)
        assert tensors[key].operation == component_pb2.TENSOR_OPERATION_COMPUTED
    (report,) = daemon.audit(str(tmp_path / "model"), "transformer").reports
    assert report.clean and report.extra == 0
    assert any("scaled FP8, E4M3 (by `.comfy_quant`)" == scheme.scheme for scheme in report.schemes), report.schemes


def test_adapters_are_added_before_the_one_rounding(daemon, tmp_path):
    zimage(tmp_path / "model", rowwise)
    stored = read_component(tmp_path / "model/transformer")
    plain = stored["layers.0.feed_forward.w1.weight"].astype(F32) * stored["layers.0.feed_forward.w1.weight_scale"]
    down, up = normal(1, (4, plain.shape[1]), 0.1), normal(2, (plain.shape[0], 4), 0.1)
    lora = {"layers.0.feed_forward.w1.lora_A.weight": down, "layers.0.feed_forward.w1.lora_B.weight": up}
    selector = model_pb2.ModelSelector(spec=str(save(lora, tmp_path / "lora.safetensors")))
    found = lent(daemon.load(str(tmp_path / "model"), "transformer", adapters=[component_pb2.Adapter(model=selector)]))
    expected = numpy((array(plain) + mx.array(up) @ mx.array(down)).astype(mx.bfloat16))
    assert same(found["layers.0.feed_forward.w1.weight"], expected)


@pytest.mark.parametrize("fault", ["scale", "rotation"])
def test_what_is_silent_elsewhere_is_refused_by_name(daemon, tmp_path, fault):
    """Without its scale FP8 gives white pictures, and without its flag a rotated weight is noise."""

    def spoilt(layer: str, values: np.ndarray) -> Tensors:
        if fault == "scale":
            return {key: it for key, it in rowwise(layer, values).items() if not key.endswith("_scale")}
        scales = np.full((values.shape[0], 1), 0.01, F32)
        return {f"{layer}.weight": np.zeros(values.shape, np.int8), f"{layer}.weight_scale": scales}

    zimage(tmp_path / "model", spoilt)
    with pytest.raises(grpc.RpcError) as raised:
        daemon.load(str(tmp_path / "model"), "transformer")
    said = raised.value.details()
    assert ("its scale is missing" if fault == "scale" else "whether it was rotated") in said and "layers.0" in said, said
    assert error_detail(raised.value).hint
    # As it is stored, it is lent all the same.
    loaded = daemon.load(str(tmp_path / "model"), "transformer", layout=SOURCE)
    assert ("U8" if fault == "scale" else "I8") in {tensor.dtype for tensor in loaded.tensors}


def published(kind: str) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Name, dtype, shape and content (empty: zeros) of each tensor of Comfy-Org's files, at true size."""
    shapes = transformer_shapes(Z_IMAGE_TURBO.transformer)
    zeros = {name: np.broadcast_to(np.zeros(1, np.int8), shape) for name, shape in shapes.items()}
    fused = {name: (3 * value.shape[0], *value.shape[1:]) for name, value in zeros.items() if ".to_q." in name}
    out: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    for name, value in zeros.items():
        if ".attention.to_k." in name or ".attention.to_v." in name:
            continue
        (key,) = transformer_to_original({name: value} if ".to_q." not in name else {"attention": value})
        key = name.replace("to_q", "qkv") if ".to_q." in name else key
        shape, layer = fused.get(name, value.shape), key.removesuffix(".weight")
        parts = ("layers.",) if kind == "nvfp4" else ("layers.", "noise_refiner.", "context_refiner.")
        if len(shape) != 2 or layer == key or not key.startswith(parts):
            out[key] = ("F32" if kind == "int8_convrot" else "BF16", shape, b"")
            continue
        rows, columns = shape
        if kind == "int8_convrot":
            mark = b'{"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": 256}'
            out |= {key: ("I8", shape, b""), f"{layer}.weight_scale": ("F32", (rows, 1), b"")}
        else:
            mark = b'{"format": "nvfp4"}'
            out |= {
                key: ("U8", (rows, columns // 2), b""), f"{layer}.weight_scale": ("F8_E4M3", (rows, columns // 16), b""),
                f"{layer}.weight_scale_2": ("F32", (), b""),
            }  # fmt: skip
        out[f"{layer}.comfy_quant"] = ("U8", (len(mark),), mark)
    return out


@pytest.mark.parametrize(
    ("kind", "count", "size"), [("int8_convrot", 857, 6_200_895_744), ("nvfp4", 993, 4_509_395_792)]
)
def test_published_files_load_at_true_size(daemon, tmp_path, kind, count, size):
    """Sparse, so that they take no room: counts and sums are those of Comfy-Org's files, without their marks."""
    bits = {"F32": 32, "BF16": 16, "I8": 8, "U8": 8, "F8_E4M3": 8}
    tensors, header, at = published(kind), {}, 0
    for name, (dtype, shape, _) in tensors.items():
        end = at + int(np.prod(shape, dtype=np.int64)) * bits[dtype] // 8
        header[f"model.diffusion_model.{name}"] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    path = tmp_path / f"z_image_turbo_{kind}.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, (_, _, content) in tensors.items():
            if content:
                file.seek(8 + len(text) + header[f"model.diffusion_model.{name}"]["data_offsets"][0])
                file.write(content)
        file.truncate(8 + len(text) + at)
    marks = sum(len(content) for _, _, content in tensors.values())
    assert (len(tensors), at - marks) == (count, size)
    (report,) = daemon.audit(str(path), "transformer").reports
    assert (report.clean, report.missing, report.extra) == (True, 0, 0)
    layers = 202 if kind == "int8_convrot" else 180
    (scheme,) = report.schemes
    assert scheme.layers == layers + 2 * (34 if kind == "int8_convrot" else 30)  # A fused layer is three.
    loaded = daemon.load(str(path), "transformer", layout=SOURCE)
    assert loaded.component.computed_bytes == 0
    codings = {tensor.name: tensor.coding for tensor in loaded.tensors if tensor.HasField("coding")}
    coding = codings["layers.7.attention.to_k.weight"]
    assert coding.rotation == (256 if kind == "int8_convrot" else 0) and coding.provenance == "`.comfy_quant`"
    assert list(coding.block) == ([1, 3840] if kind == "int8_convrot" else [1, 16])


def test_a_mark_that_is_not_read_is_no_mark(daemon, tmp_path, layers):
    """Longer than any writer's: nothing is computed from the layer, and the reason says so."""
    coded = layers["e4m3 scalar"].under("a")
    coded["a.comfy_quant"] = np.frombuffer(coded["a.comfy_quant"].tobytes().ljust(1 << 17), np.uint8)
    folder = generic(tmp_path / "model", coded, NOBODY)
    with pytest.raises(grpc.RpcError) as raised:
        daemon.load(str(folder), "model", dequantise=True)
    assert "`.comfy_quant` was not read" in raised.value.details()
    found = lent(daemon.load(str(folder), "model"))
    assert all(same(found[name], values) for name, values in coded.items())

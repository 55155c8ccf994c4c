"""The whole road: files in other layouts, through the daemon, give back the diffusers tensors, judged by `layouts.py`."""

import json
import subprocess
from pathlib import Path

import grpc
import numpy as np
import pytest
from checkpoints import Z_IMAGE_TURBO, text_encoder_shapes, transformer_shapes, vae_shapes, write_directory
from daemon import DEADLINE, TARGET, Daemon, Loaded, error_detail
from layouts import PREFIXES, Tensors, all_in_one, places, read_component, to_original, write
from lent import check, lent
from weights.v1 import audit_pb2, component_pb2, error_pb2, model_pb2, weights_service_pb2

SOURCE = component_pb2.LAYOUT_SOURCE
ROWS, RESHAPED = component_pb2.TENSOR_OPERATION_ROWS, component_pb2.TENSOR_OPERATION_RESHAPED
COMPONENTS = ("transformer", "text_encoder", "vae")


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return write_directory(tmp_path_factory.mktemp("round") / "model", seed=11).resolve()


@pytest.fixture(scope="module")
def originals(directory) -> dict[str, Tensors]:
    return {component: read_component(directory / component) for component in COMPONENTS}


def selector(path: Path) -> model_pb2.ModelSelector:
    return model_pb2.ModelSelector(spec=str(path))


def load(daemon: Daemon, spec: Path, component: str, **options) -> Loaded:
    """Loads it in the layout of the published files. `base` and `overlay` are paths."""
    others = {name: selector(options.pop(name)) for name in ("base", "overlay") if name in options}
    return daemon.load(str(spec), component, layout=SOURCE, **others, **options)


def audit(daemon: Daemon, spec: Path, component: str, **others: Path) -> audit_pb2.AuditReport:
    others = {name: selector(path) for name, path in others.items()}
    request = weights_service_pb2.AuditRequest(model=selector(spec), components=[component], **others)
    (report,) = daemon.weights.Audit(request, timeout=DEADLINE).reports
    return report


def refusal(daemon: Daemon, spec: Path, component: str, **options) -> error_pb2.ErrorDetail:
    with pytest.raises(grpc.RpcError) as raised:
        load(daemon, spec, component, **options)
    detail = error_detail(raised.value)
    assert detail.hint
    detail.resource = f"{detail.resource}: {raised.value.details()}"  # For the words.
    return detail


def one_file(tensors: Tensors, folder: Path, name: str = "model.safetensors") -> Path:
    return write(tensors, folder / name).resolve()


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: value for name, value in tensors.items()}


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("layout", ["diffusers", "original"])
def test_a_file_of_one_component_gives_back_every_byte(daemon, directory, originals, tmp_path, component, layout):
    tensors = originals[component] if layout == "diffusers" else to_original(component, originals[component])
    file = one_file(tensors, tmp_path)
    loaded = load(daemon, file, component, base=directory)
    check(lent(loaded), originals[component])
    report = loaded.component.audit
    assert report.clean and report.coverage == 1
    assert (report.extra, [origin.source for origin in report.origins]) == (0, [0])
    assert loaded.component.computed_bytes == 0
    again = audit(daemon, file, component, base=directory)
    assert [origin.file for origin in again.origins] == [file.name]
    report.origins[0].file = file.name  # A lent component has segments instead.
    assert (again.clean, again.matched, list(again.origins)) == (True, report.matched, list(report.origins))


@pytest.mark.parametrize(
    ("transformer", "text_encoder", "vae"),
    [
        ("model.diffusion_model.", "text_encoders.qwen3_4b.transformer.", "vae."),
        ("diffusion_model.", "text_encoders.other.transformer.", "first_stage_model."),
        ("diffusion_model.", "cond_stage_model.qwen3_4b.transformer.", "vae."),
        ("model.diffusion_model.", "cond_stage_model.", "first_stage_model."),
    ],
)
def test_every_prefix_of_an_all_in_one_file_gives_back_every_byte(
    daemon, directory, originals, tmp_path, transformer, text_encoder, vae
):
    prefixes = {"transformer": transformer, "text_encoder": text_encoder, "vae": vae}
    file = one_file(all_in_one(originals, prefixes), tmp_path)
    answer = daemon.resolve(str(file))
    assert answer.inspection.kind == model_pb2.FILE_KIND_ALL_IN_ONE
    assert {component.name: component.prefix for component in answer.components} == prefixes
    for component in COMPONENTS:
        loaded = load(daemon, file, component, base=directory)
        check(lent(loaded), originals[component])
        assert loaded.component.audit.clean
        for tensor in loaded.tensors:
            assert tensor.source_name.startswith(prefixes[component])


@pytest.mark.parametrize(
    ("component", "prefix"),
    [("transformer", prefix) for prefix in ("model.model.", "net.", "transformer.", "model.")]
    + [("text_encoder", "text_encoder.")],
)
def test_a_base_lends_its_kind_to_prefixes_that_other_models_have_too(
    daemon, directory, originals, tmp_path, component, prefix
):
    file = one_file(prefixed(prefix, to_original(component, originals[component])), tmp_path)
    check(lent(load(daemon, file, component, base=directory)), originals[component])


def test_a_tensor_says_what_it_is_of_the_one_in_the_file(daemon, directory, originals, tmp_path):
    file = one_file(all_in_one(originals), tmp_path)
    tensors = {tensor.name: tensor for tensor in load(daemon, file, "transformer", base=directory).tensors}
    width = originals["transformer"]["layers.0.attention.to_q.weight"].shape[0]
    for number, letter in enumerate("qkv"):
        tensor = tensors[f"layers.0.attention.to_{letter}.weight"]
        assert tensor.source_name == "model.diffusion_model.layers.0.attention.qkv.weight"
        assert (tensor.operation, tensor.rows.first, tensor.rows.count, tensor.rows.of) == (
            ROWS, number * width, width, 3 * width,
        )  # fmt: skip
    report = load(daemon, file, "vae", base=directory).component.audit
    squeezed = {t.name for t in load(daemon, file, "vae", base=directory).tensors if t.operation == RESHAPED}
    halves = ("encoder", "decoder")
    layers = ("to_q", "to_k", "to_v", "to_out.0")
    assert squeezed == {f"{half}.mid_block.attentions.0.{layer}.weight" for half in halves for layer in layers}
    (origin,) = report.origins
    assert origin.reshaped == len(squeezed)


def test_at_true_size_the_daemon_lends_the_ranges_of_the_converter(tmp_path):
    """1,095 tensors in 21 to 33 GB of nothing: a sparse file whose header is read, and no config anywhere."""
    program = TARGET / "debug/examples/make-checkpoint"
    arguments = [program, "--size", "true", "--sparse", "--layout", "all-in-one", tmp_path]
    subprocess.run(arguments, check=True, capture_output=True)
    file = (tmp_path / "all-in-one.safetensors").resolve()
    shapes = {
        "transformer": transformer_shapes(Z_IMAGE_TURBO.transformer),
        "text_encoder": text_encoder_shapes(Z_IMAGE_TURBO.text_encoder),
        "vae": vae_shapes(Z_IMAGE_TURBO.vae),
    }
    sources = 0
    with Daemon(arguments=("--verify", "false", "--offline")) as daemon:
        for component, expected in shapes.items():
            loaded = load(daemon, file, component)
            ranges, count = places(file, component, PREFIXES[component], expected)
            found = {tensor.name: (tensor.offset, tensor.offset + tensor.length) for tensor in loaded.tensors}
            assert found == ranges
            assert {tensor.name: tuple(tensor.shape) for tensor in loaded.tensors} == expected
            report = audit(daemon, file, component)
            assert (report.clean, report.expected, report.matched) == (True, len(expected), len(expected))
            # The configs are the published ones, not the file's, and nothing tells Turbo from the base model.
            told = [text.split(":")[0] for text in report.assumptions]
            assert told == (["model", "config"] if component == "transformer" else ["config"]), report.assumptions
            assert json.loads(loaded.component.config_json)
            sources += count
    assert [len(shape) for shape in shapes.values()] == [521, 398, 244]
    assert sources == 1095


@pytest.mark.parametrize("layout", ["diffusers", "original"])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_file_laid_over_a_model_takes_the_place_of_its_tensors(daemon, directory, originals, tmp_path, layout, prefix):
    other = write_directory(tmp_path / "other", seed=99)
    tensors = read_component(other / "transformer")
    file = tensors if layout == "diffusers" else to_original("transformer", tensors)
    overlay = one_file(prefixed(prefix, file), tmp_path)
    loaded = load(daemon, directory, "transformer", overlay=overlay)
    check(lent(loaded), tensors)
    own = len(loaded.component.segments) - 1
    assert loaded.component.segments[own].path == str(overlay)
    assert {tensor.segment for tensor in loaded.tensors} == {own}
    assert loaded.component.id != load(daemon, directory, "transformer").component.id
    check(lent(load(daemon, directory, "transformer")), originals["transformer"])


@pytest.mark.parametrize("layout", ["diffusers", "original"])
def test_a_file_with_some_tensors_replaces_those_and_the_report_says_so(daemon, directory, originals, tmp_path, layout):
    other = read_component(write_directory(tmp_path / "other", seed=99) / "transformer")
    some = {name: value for name, value in other.items() if name.startswith("layers.1.attention.")}
    overlay = one_file(some if layout == "diffusers" else to_original("transformer", some), tmp_path)
    loaded = load(daemon, directory, "transformer", overlay=overlay)
    check(lent(loaded), originals["transformer"] | some)
    files = [segment.path for segment in loaded.component.segments]
    assert files[-1] == str(overlay)
    assert {tensor.name for tensor in loaded.tensors if tensor.segment == len(files) - 1} == set(some)
    report = audit(daemon, directory, "transformer", overlay=overlay)
    totals = {origin.source: origin for origin in report.origins}
    last = totals[len(files) - 1]
    assert last.as_they_are + last.renamed + last.rows + last.reshaped == len(some)
    assert (last.file, totals[0].file.split("/")[0]) == (str(overlay), "transformer")
    assert last.rows == (3 if layout == "original" else 0)
    assert sum(o.as_they_are for s, o in totals.items() if s < len(files) - 1) == len(originals["transformer"]) - len(some)
    kept = len(originals["transformer"]) - len(some)
    assert f"{len(some)} tensors come from the override, {kept} from the model" in report.remarks


def test_a_file_of_another_width_is_refused_in_one_sentence(daemon, directory, originals, tmp_path):
    wide = {name: np.concatenate([value] * 2, axis=0) for name, value in originals["transformer"].items()}
    detail = refusal(daemon, directory, "transformer", overlay=one_file(wide, tmp_path))
    assert detail.reason == error_pb2.ERROR_REASON_INVALID_CHECKPOINT
    assert "in the file, and the model has" in detail.resource
    assert "base" in detail.hint


def test_a_file_that_replaces_nothing_is_refused(daemon, directory, originals, tmp_path):
    file = one_file(originals["vae"], tmp_path)
    detail = refusal(daemon, directory, "transformer", overlay=file)
    assert detail.reason == error_pb2.ERROR_REASON_INVALID_CHECKPOINT
    assert "weightsd inspect" in detail.hint


def test_a_base_of_another_kind_is_refused(daemon, directory, originals, tmp_path):
    (tmp_path / "other").mkdir()
    one_file({"weight": np.zeros(3, np.float32)}, tmp_path / "other")
    file = one_file(all_in_one(originals), tmp_path)
    detail = refusal(daemon, file, "transformer", base=tmp_path / "other")
    assert detail.reason == error_pb2.ERROR_REASON_INVALID_REQUEST


def test_a_half_vae_and_a_damaged_part_are_refused_by_name(daemon, directory, originals, tmp_path):
    tensors = all_in_one(originals)
    del tensors["vae.decoder.up.0.block.0.conv1.weight"]
    file = one_file(tensors, tmp_path)
    detail = refusal(daemon, file, "vae", base=directory)
    assert detail.reason == error_pb2.ERROR_REASON_AUDIT_FAILED
    blocks = 1 + max(int(name.split(".")[2]) for name in originals["vae"] if name.startswith("decoder.up_blocks."))
    assert list(detail.audit.missing_sample) == [f"decoder.up_blocks.{blocks - 1}.resnets.0.conv1.weight"]
    check(lent(load(daemon, file, "text_encoder", base=directory)), originals["text_encoder"])

"""`weightsd.path`: folders that other programs open."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import DEADLINE, TARGET, Daemon, program, write_safetensors

import weightsd

safetensors = pytest.importorskip("safetensors")
st = pytest.importorskip("safetensors.torch")
torch = pytest.importorskip("torch")

WEIGHTS = {
    "a.weight": ("F32", [2, 64], np.arange(128, dtype=np.float32).tobytes()),
    "b.weight": ("F32", [3, 64], np.arange(192, dtype=np.float32).tobytes()),
    "ids": ("I64", [3], np.arange(3).tobytes()),
    "odd": ("U8", [3], b"abc"),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model as transformers saves it, in two shards, with weights of other kinds beside them."""
    folder = tmp_path / "model"
    folder.mkdir()
    first, second = dict(list(WEIGHTS.items())[:1]), dict(list(WEIGHTS.items())[1:])
    write_safetensors(folder / "model-00001-of-00002.safetensors", first)
    write_safetensors(folder / "model-00002-of-00002.safetensors", second)
    names = {name: f"model-0000{1 if name in first else 2}-of-00002.safetensors" for name in WEIGHTS}
    index = {"metadata": {}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps({"hidden_size": 64, "torch_dtype": "float32"}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"old")
    (folder / ".gitattributes").write_text("x")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def test_what_is_as_wanted_is_the_checkpoints_own_files(daemon: Daemon, model: Path) -> None:
    folder = weightsd.path(model)
    assert names(Path(folder)) == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    ]
    for name in names(Path(folder)):
        if name != "model.safetensors.index.json":
            assert os.path.samefile(folder / name, model / name), name
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == json.loads((model / "model.safetensors.index.json").read_text())["weight_map"]
    assert index["metadata"]["total_size"] == sum(len(content) for _, _, content in WEIGHTS.values())


def test_what_is_computed_is_one_file_without_room(daemon: Daemon, model: Path) -> None:
    folder = weightsd.path(model, dtype="bf16")
    assert names(Path(folder)) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert json.loads((folder / "config.json").read_text()) == {"hidden_size": 64, "torch_dtype": "bfloat16"}
    with safetensors.safe_open(folder / "model.safetensors", "pt") as file:
        assert sorted(file.keys()) == sorted(WEIGHTS), "no tensor that is only room"
        assert torch.equal(file.get_tensor("b.weight"), torch.arange(192).reshape(3, 64).bfloat16())
        assert file.get_tensor("ids").tolist() == [0, 1, 2] and bytes(file.get_tensor("odd").tolist()) == b"abc"
    image = os.path.realpath(folder / "model.safetensors")
    assert image in [image.path for image in weightsd.ls(images=True).images]


def test_the_lease_stands_as_long_as_the_process_or_until_it_is_closed(daemon: Daemon, model: Path) -> None:
    place = str(weightsd.path(model, dtype="f16"))
    gc.collect()
    held = [component for component in weightsd.ls().components if component.model and component.model.path == str(model)]
    assert any(component.holders for component in held), "the path was dropped, the lease was not"
    again = weightsd.path(model, dtype="f16")
    assert str(again) == place and again.leased, "the same wish is the same folder"
    with again:
        assert (again / "config.json").is_file()
    assert not again.leased and again == Path(place)


def test_a_quantised_model_is_declared_as_mlx_lm_wants_it(daemon: Daemon, model: Path) -> None:
    mx = pytest.importorskip("mlx.core")
    folder = weightsd.path(model, quantise="affine:4:64", format="mlx")
    config = json.loads((folder / "config.json").read_text())
    assert config["quantization"] == {"group_size": 64, "bits": 4, "mode": "affine"} == config["quantization_config"]
    arrays = mx.load(str(folder / "model.safetensors"))
    assert {"a.weight", "a.scales", "a.biases"} <= set(arrays)
    whole = mx.quantize(mx.arange(128, dtype=mx.float32).reshape(2, 64), 64, 4)
    assert all(mx.array_equal(ours, theirs) for ours, theirs in zip((arrays["a.weight"], arrays["a.scales"]), whole))


def test_a_pipeline_keeps_its_structure(daemon: Daemon, z_image: Path) -> None:
    folder = Path(weightsd.path(z_image))
    here = [name for name in names(z_image) if not name.endswith(".index.json")]
    assert [name for name in names(folder) if not name.endswith(".index.json")] == here
    for name in here:
        assert os.path.samefile(folder / name, z_image / name), name
    cast = Path(weightsd.path(z_image, dtype="f32"))
    for component in ("transformer", "vae", "text_encoder"):
        stem = "model" if component == "text_encoder" else "diffusion_pytorch_model"
        for weights in (cast / component).glob("*.safetensors"):
            assert weights.name.startswith(stem)
            with safetensors.safe_open(weights, "pt") as file:
                assert {str(file.get_tensor(name).dtype) for name in file.keys()} == {"torch.float32"}


def test_an_all_in_one_file_gets_the_configs_of_its_base(daemon: Daemon, z_image: Path, tmp_path: Path) -> None:
    names, parts = {"transformer": "model.diffusion_model."}, {}
    for component, prefix in names.items():
        for file in (z_image / component).glob("*.safetensors"):
            parts |= {prefix + name: tensor for name, tensor in st.load_file(file).items()}
    single = tmp_path / "all.safetensors"
    st.save_file(parts, single)
    with pytest.raises(weightsd.WeightsdError, match="is one file; a folder also needs configs") as refused:
        weightsd.path(single)
    assert refused.value.hint == "name the model whose configs it has as `base`"
    folder = weightsd.path(single, base=z_image)
    (weights,) = (folder / "transformer").glob("*.safetensors")
    ours, theirs = st.load_file(weights), {}
    for file in (z_image / "transformer").glob("*.safetensors"):
        theirs |= st.load_file(file)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert os.path.samefile(folder / "vae/config.json", z_image / "vae/config.json")


@pytest.mark.parametrize(
    ("wish", "problem"),
    [
        ({"format": "diffusers"}, "of a model without a model_index.json"),
        ({"quantise": "affine"}, "in MLX's packing, which torch cannot read"),
    ],
)
def test_a_format_that_cannot_say_it_is_refused(
    daemon: Daemon, model: Path, wish: dict[str, str], problem: str
) -> None:
    with pytest.raises(weightsd.WeightsdError, match=problem) as refused:
        weightsd.path(model, **wish)  # type: ignore[arg-type]
    assert refused.value.hint and refused.value.tier == "request"


def test_a_pipeline_is_no_model_of_transformers(daemon: Daemon, z_image: Path) -> None:
    with pytest.raises(weightsd.WeightsdError, match="of a pipeline of several components"):
        weightsd.path(z_image, format="mlx")


def test_the_command_line_makes_the_same_folder(daemon: Daemon, model: Path) -> None:
    ours = weightsd.path(model, dtype="bf16")
    command = [program(), "path", model, "--dtype", "bf16"]
    environment = {**os.environ, "WEIGHTSD_SOCKET": str(daemon.socket)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEADLINE, check=True)
    assert done.stdout == f"{ours}\n"
    script = f"import os, sys; sys.exit(os.environ['WEIGHTSD_PATH'] != {str(ours)!r})"
    held = [*command, "--", sys.executable, "-c", script]
    assert subprocess.run(held, env=environment, timeout=DEADLINE).returncode == 0
    assert subprocess.run([*command, "--", "false"], env=environment, timeout=DEADLINE).returncode == 1


MANY = "import sys, weightsd; print(weightsd.path(sys.argv[1], dtype='bf16', root=sys.argv[2], progress=False))"


def test_processes_that_ask_at_the_same_time_get_one_folder(daemon: Daemon, model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", MANY, model, tmp_path / "root"]
    askers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    said = {asker.communicate(timeout=DEADLINE)[0] for asker in askers}
    assert len(said) == 1 and len(list((tmp_path / "root").iterdir())) == 1


def test_a_changed_model_is_another_folder(daemon: Daemon, model: Path) -> None:
    before = weightsd.path(model)
    shutil.move(model, model.with_name("moved"))
    moved = weightsd.path(model.with_name("moved"))
    assert str(before) != str(moved)


def test_a_model_of_the_hub_brings_the_small_files_that_programs_want(tmp_path: Path, model: Path) -> None:
    server = next(path for kind in ("release", "debug") if (path := TARGET / kind / "examples/test-hub").is_file())
    hub = subprocess.Popen(
        [server, "--repo", f"org/model={model}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert hub.stdout is not None and hub.stdin is not None
    endpoint = json.loads(hub.stdout.readline())["endpoint"]
    own = Daemon(arguments=("--hub-endpoint", endpoint))
    try:
        folder = Path(weightsd.path("org/model", offline=False, hub_cache=tmp_path / "hub", socket=own.socket))
        assert "tokenizer.json" in names(folder) and "pytorch_model.bin" not in names(folder)
        assert (folder / "tokenizer.json").read_text() == "{}"
        assert "/models--org--model/blobs/" in os.path.realpath(folder / "model-00001-of-00002.safetensors")
        hub.stdin.close()
        hub.wait(DEADLINE)
        assert str(weightsd.path("org/model", offline=True, hub_cache=tmp_path / "hub", socket=own.socket)) == str(folder)
    finally:
        own.end()
        hub.kill()
        hub.wait()


def test_a_spec_that_means_nothing_is_said_as_it_is_elsewhere(daemon: Daemon, tmp_path: Path) -> None:
    with pytest.raises(weightsd.Refused) as refused:
        weightsd.path(tmp_path / "nothing")
    assert refused.value.reason == "PATH_NOT_FOUND"

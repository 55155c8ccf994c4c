"""weightsd and huggingface_hub mean the same by a cache, a revision and a file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import write_hub_cache
from daemon import Daemon, error_detail
from grpc import RpcError
from huggingface_hub import scan_cache_dir, snapshot_download
from weights.v1 import component_pb2, error_pb2, model_pb2

REPO = "org/z-image"


def test_the_written_cache_is_one(hub):
    """The writer's cache is held against huggingface_hub before weightsd is held against the cache."""
    cache, commit = hub
    assert snapshot_download(REPO, cache_dir=cache, local_files_only=True).endswith(f"/snapshots/{commit}")
    info = scan_cache_dir(cache)
    assert info.warnings == []
    (repo,) = info.repos
    (revision,) = repo.revisions
    assert (repo.repo_id, revision.commit_hash, revision.refs) == (REPO, commit, {"main", "v1"})


@pytest.mark.parametrize("revision", ["", "main", "v1", "COMMIT"])
def test_a_spec_means_the_same_commit_and_files(daemon: Daemon, hub, revision: str):
    cache, commit = hub
    revision = revision.replace("COMMIT", commit)
    snapshot = snapshot_download(REPO, revision=revision or None, cache_dir=cache, local_files_only=True)
    response = daemon.resolve(REPO, revision=revision)
    model = response.model
    assert (model.kind, model.repo, model.commit) == (model_pb2.MODEL_KIND_HUB, REPO, commit)
    assert (model.revision, model.path, model.hub_cache) == (revision or "main", snapshot, str(cache))
    files = {file.path: file for component in response.components for file in component.files}
    expected = {path.relative_to(snapshot).as_posix(): path for path in Path(snapshot).rglob("*.safetensors")}
    assert files.keys() == expected.keys()
    for path, file in files.items():
        assert file.present
        assert file.length == expected[path].stat().st_size
        assert file.blob == Path(os.readlink(expected[path])).name


@pytest.mark.parametrize("spec", [f"{REPO}:v1", f"{REPO}@v1", f"{REPO}@COMMIT"])
def test_a_revision_in_the_spec(daemon: Daemon, hub, spec: str):
    assert daemon.resolve(spec.replace("COMMIT", hub[1])).model.commit == hub[1]


def test_names_of_one_commit_share_a_component(daemon: Daemon, hub):
    one, two = (daemon.load(spec, "transformer").component for spec in (REPO, f"{REPO}@{hub[1]}"))
    assert one.id == two.id
    assert two.warm


def test_segments_are_the_blobs(daemon: Daemon, hub):
    snapshot = Path(daemon.resolve(REPO).model.path)
    segments = daemon.load(REPO, "vae", layout=component_pb2.LAYOUT_SOURCE).component.segments
    blobs = {str(file.resolve()) for file in (snapshot / "vae").glob("*.safetensors")}
    assert {str(Path(segment.path).resolve()) for segment in segments} == blobs


def test_an_unknown_revision_is_no_other_revision(daemon: Daemon):
    with pytest.raises(RpcError) as raised:
        daemon.resolve(REPO, revision="v2")
    assert error_detail(raised.value).reason == error_pb2.ERROR_REASON_REVISION_NOT_CACHED


def test_a_half_downloaded_snapshot(daemon: Daemon, model: Path, tmp_path: Path):
    """huggingface_hub leaves it like this when a download is interrupted; the request names the cache."""
    write_hub_cache(tmp_path, "org/half", model)
    (blob,) = {link.resolve() for link in tmp_path.rglob("snapshots/*/vae/*.safetensors")}
    blob.rename(blob.with_name(f"{blob.name}.incomplete"))
    response = daemon.resolve("org/half", hub_cache=str(tmp_path.resolve()))
    assert {component.name: bool(component.problem) for component in response.components} == {
        "transformer": False,
        "text_encoder": False,
        "vae": True,
    }


# Left out: empty values, which Python takes for the current directory and weightsd for unset.
ENVIRONMENTS = [
    {},
    {"XDG_CACHE_HOME": "/xdg"},
    {"HF_HOME": "/hf"},
    {"HF_HOME": "/hf", "XDG_CACHE_HOME": "/xdg"},
    {"HUGGINGFACE_HUB_CACHE": "/legacy", "HF_HOME": "/hf"},
    {"HF_HUB_CACHE": "/cache", "HUGGINGFACE_HUB_CACHE": "/legacy", "HF_HOME": "/hf"},
    {"HF_HOME": "~/hf"},
    {"HF_HOME": "$BASE/hf", "BASE": "/base"},
    {"HF_HUB_CACHE": "${BASE}/cache", "BASE": "/base"},
    {"HF_HUB_CACHE": "~/$BASE/cache", "BASE": "base"},
    {"HUGGINGFACE_HUB_CACHE": "~/legacy"},
    {"XDG_CACHE_HOME": "~/xdg"},
]


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda e: ",".join(f"{k}={v}" for k, v in e.items()) or "-")
def test_the_cache_is_where_huggingface_hub_has_it(environment: dict[str, str]):
    with Daemon(environment=environment) as daemon:
        python = subprocess.run(
            [sys.executable, "-c", "from huggingface_hub.constants import HF_HUB_CACHE; print(HF_HUB_CACHE)"],
            env={"HOME": str(daemon.home), "PATH": os.environ["PATH"]} | environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert daemon.status().hub_cache == python.stdout.strip()

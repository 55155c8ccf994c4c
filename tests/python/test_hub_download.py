"""huggingface_hub can use what weightsd downloads, weightsd what huggingface_hub downloads, also at the same time."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from daemon import Daemon
from grpc import RpcError
from huggingface_hub import scan_cache_dir, snapshot_download, try_to_load_from_cache
from huggingface_hub.file_download import _CACHED_NO_EXIST
from hub import Hub
from weights.v1 import component_pb2, model_pb2, weights_service_pb2

REPO = "org/z-image"
TRANSFORMER = ["transformer/*", "model_index.json"]


@pytest.fixture
def remote(model):
    with Hub((REPO, model)) as hub:
        yield hub


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path.resolve() / "hub"


def daemon_on(hub: Hub, cache: Path) -> Daemon:
    return Daemon(hub_cache=cache, environment={"HF_ENDPOINT": hub.endpoint, "NO_PROXY": "*"})


def python(hub: Hub, cache: Path, code: str) -> str:
    """Runs code in a Python that believes in the hub; it prints its result."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(cache.parent), "HF_ENDPOINT": hub.endpoint, "NO_PROXY": "*"}
    environment |= {"HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    program = "from huggingface_hub import *\n" + code
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def pull(daemon: Daemon, *components: str, whole: bool = False) -> weights_service_pb2.PullReport:
    request = weights_service_pb2.PullRequest(
        model=model_pb2.ModelSelector(spec=REPO), components=components, whole_repository=whole
    )
    messages = list(daemon.weights.Pull(request, timeout=60))
    assert all(message.WhichOneof("event") == "progress" for message in messages[:-1])
    return messages[-1].report


def assert_blobs_are_their_names(cache: Path) -> int:
    blobs = [path for path in cache.glob("models--*/blobs/*") if path.is_file()]
    for blob in blobs:
        content = blob.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        assert blob.name in (git, hashlib.sha256(content).hexdigest()), blob
    return len(blobs)


def test_python_accepts_one_component(remote: Hub, cache: Path):
    with daemon_on(remote, cache) as daemon:
        component = daemon.load(REPO, "transformer").component
    snapshot = Path(snapshot_download(REPO, cache_dir=cache, local_files_only=True, allow_patterns=TRANSFORMER))
    assert (snapshot.name, str(snapshot)) == (remote.commits[REPO], component.model.path)
    assert component.attestation.state == component_pb2.VERIFICATION_STATE_VERIFIED
    info = scan_cache_dir(cache)
    assert info.warnings == []
    (repo,) = info.repos
    (revision,) = repo.revisions
    assert revision.refs == {"main"}
    names = {str(file.file_path.relative_to(snapshot)) for file in revision.files}
    assert {name for name in names if name.endswith(".safetensors")} == {
        str(path.relative_to(snapshot)) for path in snapshot.glob("transformer/*.safetensors")
    }
    assert_blobs_are_their_names(cache)
    # It knows by the listing that the rest is not there, as it knows of its own downloads.
    with pytest.raises(Exception, match="(?i)incomplete"):
        snapshot_download(REPO, cache_dir=cache, local_files_only=True)


def test_python_accepts_everything_and_asks_for_nothing(remote: Hub, cache: Path, model: Path):
    with daemon_on(remote, cache) as daemon:
        report = pull(daemon, whole=True)
    files = [path for path in model.rglob("*") if path.is_file()]
    assert (len(report.files), report.bytes) == (len(files), sum(path.stat().st_size for path in files))
    assert snapshot_download(REPO, cache_dir=cache, local_files_only=True) == report.model.path
    remote.forget()
    assert python(remote, cache, f"print(snapshot_download({REPO!r}))") == report.model.path
    assert [request["path"] for request in remote.requests()] == [f"/api/models/{REPO}/revision/main"]
    checked = python(remote, cache, f"r = HfApi().verify_repo_checksums({REPO!r}); print(r.checked_count, r.mismatches)")
    assert checked == f"{len(files)} []"


def test_a_commit_that_python_downloaded_costs_no_request(remote: Hub, cache: Path):
    snapshot = python(remote, cache, f"print(snapshot_download({REPO!r}))")
    commit = remote.commits[REPO]
    with daemon_on(remote, cache) as daemon:
        remote.forget()
        component = daemon.load(f"{REPO}@{commit}", "transformer", verification=component_pb2.VERIFICATION_BEFORE).component
        assert component.model.path == snapshot
        assert component.attestation.state == component_pb2.VERIFICATION_STATE_VERIFIED
        assert remote.requests() == []
        # A branch is looked up, once, and that is all.
        assert not daemon.load(REPO, "text_encoder").component.model.warning
        daemon.load(REPO, "text_encoder")
    assert [request["path"] for request in remote.requests()] == [f"/api/models/{REPO}/revision/main"]


def test_both_download_at_the_same_time(remote: Hub, cache: Path):
    remote.fault({"slow": {"bytes_per_second": 1_000_000}}, side="cdn")
    with daemon_on(remote, cache) as daemon:
        result = []
        thread = threading.Thread(target=lambda: result.append(pull(daemon, whole=True)))
        thread.start()
        snapshot = python(remote, cache, f"print(snapshot_download({REPO!r}))")
        thread.join()
        (report,) = result
        assert report.model.path == snapshot
    assert_blobs_are_their_names(cache)
    assert snapshot_download(REPO, cache_dir=cache, local_files_only=True) == snapshot
    assert scan_cache_dir(cache).warnings == []
    assert list(cache.glob("models--*/blobs/*.incomplete")) == []
    # The second request for a file found it, so no bytes came twice.
    sent = [request for request in remote.requests() if request["side"] == "cdn" and request["method"] == "GET"]
    assert len(sent) == len({request["path"] for request in sent})


def test_a_file_that_the_commit_has_not_is_marked(remote: Hub, cache: Path):
    commit = remote.commits[REPO]
    absent = {"status": {"status": 404, "code": "EntryNotFound", "commit": commit}}
    remote.fault(absent, side="resolve", path="vae/config.json")
    with daemon_on(remote, cache) as daemon, pytest.raises(RpcError):
        pull(daemon, "vae")
    assert try_to_load_from_cache(REPO, "vae/config.json", cache_dir=cache, revision=commit) is _CACHED_NO_EXIST


def test_a_quarantined_blob_is_no_damage_to_the_cache(remote: Hub, cache: Path):
    with daemon_on(remote, cache) as daemon:
        path = Path(pull(daemon, "vae").model.path)
        (blob,) = {file.resolve() for file in path.glob("vae/*.safetensors")}
        content = bytearray(blob.read_bytes())
        content[-1] ^= 1
        blob.write_bytes(content)
        request = weights_service_pb2.VerifyRequest(model=model_pb2.ModelSelector(spec=REPO))
        report = list(daemon.weights.Verify(request, timeout=60))[-1].report
        assert not report.clean
        assert report.verdicts[0].finding == weights_service_pb2.FILE_FINDING_CORRUPT
        assert Path(report.verdicts[0].moved_to).read_bytes() == content
        assert scan_cache_dir(cache).warnings == []
        assert list(path.glob("vae/*.safetensors")) == []
        assert pull(daemon, "vae").bytes_fetched == len(content)
    assert snapshot_download(REPO, cache_dir=cache, local_files_only=True, allow_patterns="vae/*") == str(path)
    assert_quarantine_apart(cache)


def assert_quarantine_apart(cache: Path) -> None:
    (aside,) = cache.glob("models--*/blobs/*.quarantined")
    good = aside.with_suffix("")
    assert hashlib.sha256(good.read_bytes()).hexdigest() == good.name


def test_the_listing_is_kept_as_python_keeps_it(remote: Hub, cache: Path, tmp_path: Path):
    with daemon_on(remote, cache) as daemon:
        pull(daemon, whole=True)
    theirs = tmp_path.resolve() / "theirs" / "hub"
    python(remote, theirs, f"print(snapshot_download({REPO!r}))")
    ours, others = (json.loads(next(root.glob("models--*/trees/*.json")).read_text()) for root in (cache, theirs))
    assert ours == others

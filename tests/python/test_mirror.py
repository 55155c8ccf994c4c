"""Programs that know only the hub use a node's mirror: the same files, etags and commits come from it as from the hub."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from daemon import Daemon
from hub import Hub

REPO = "org/z-image"
LANGUAGE = "org/tiny-llama"

DOWNLOAD = "import sys\nfrom huggingface_hub import snapshot_download\nprint(snapshot_download(sys.argv[1]))"
REFUSED = """
import sys
from huggingface_hub import snapshot_download
try:
    print("it came:", snapshot_download(sys.argv[1]))
except Exception as error:
    print(type(error).__name__)
"""
PRETRAINED = """
import sys
from transformers import AutoConfig, AutoModelForCausalLM
config = AutoConfig.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
print(config.model_type, sum(parameter.double().sum().item() for parameter in model.parameters()))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Node:
    """A daemon with a mirror, whose upstream is at `endpoint`; `variables` are of its environment."""

    def __init__(self, endpoint: str, cache: Path, **variables: str):
        port = free_port()
        environment = {"HF_ENDPOINT": endpoint, "NO_PROXY": "*", **variables}
        arguments = ("--mirror-listen", str(port))
        self.daemon = Daemon(hub_cache=cache, environment=environment, arguments=arguments)
        self.endpoint = f"http://127.0.0.1:{port}"

    def __enter__(self) -> "Node":
        return self

    def __exit__(self, *_) -> None:
        self.daemon.stop()


def client(endpoint: str, home: Path, code: str, *arguments: str, **variables: str) -> subprocess.Popen:
    """A Python that believes in this hub, with a cache of its own."""
    home.mkdir(parents=True, exist_ok=True)
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "HF_ENDPOINT": endpoint, "NO_PROXY": "*"}
    environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    environment |= variables
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out.strip()


def cached(home: Path) -> dict[str, object]:
    """Commits, paths, links and contents of a client's cache."""
    hub = home / ".cache/huggingface/hub"
    found: dict[str, object] = {}
    for path in sorted(hub.glob("models--*/**/*")):
        name = str(path.relative_to(hub))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def language(tmp_path_factory) -> Path:
    """A tiny llama, as transformers saves it."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("language")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.LlamaConfig(vocab_size=64, num_key_value_heads=2, **sizes)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def hub(model, language):
    with Hub((REPO, model), (LANGUAGE, language)) as hub:
        yield hub


def test_a_snapshot_is_the_hub_s(hub, tmp_path):
    with Node(hub.endpoint, tmp_path / "node") as node:
        said(client(hub.endpoint, tmp_path / "direct", DOWNLOAD, REPO))
        said(client(node.endpoint, tmp_path / "mirrored", DOWNLOAD, REPO))
    direct, mirrored = cached(tmp_path / "direct"), cached(tmp_path / "mirrored")
    assert len(direct) > 5
    assert mirrored == direct


def test_ten_clients_cause_one_download(hub, tmp_path):
    with Node(hub.endpoint, tmp_path / "node") as node:
        clients = [client(node.endpoint, tmp_path / f"client{number}", DOWNLOAD, REPO) for number in range(10)]
        for process in clients:
            said(process)
    contents = [seen["path"] for seen in hub.requests() if seen["method"] == "GET" and "/api/" not in seen["path"]]
    assert contents and len(contents) == len(set(contents))
    first = cached(tmp_path / "client0")
    assert all(cached(tmp_path / f"client{number}") == first for number in range(1, 10))


def test_strangers_are_refused_as_the_hub_refuses_them(model, tmp_path):
    token = "hf_OfSomebodyWhoMay"
    with Hub((REPO, model), arguments=("--token", token)) as hub, Node(hub.endpoint, tmp_path / "node", HF_TOKEN=token) as node:
        said(client(hub.endpoint, tmp_path / "direct", DOWNLOAD, REPO, HF_TOKEN=token))
        said(client(node.endpoint, tmp_path / "mirrored", DOWNLOAD, REPO, HF_TOKEN=token))
        assert cached(tmp_path / "mirrored") == cached(tmp_path / "direct")
        # The node has it now, and has it for those alone whom the hub lets in.
        for number, variables in enumerate([{}, {"HF_TOKEN": "hf_OfSomebodyElse"}]):
            refused = said(client(hub.endpoint, tmp_path / f"refused{number}", REFUSED, REPO, **variables))
            assert refused.endswith("Error"), refused
            assert said(client(node.endpoint, tmp_path / f"stranger{number}", REFUSED, REPO, **variables)) == refused
            assert cached(tmp_path / f"stranger{number}") == {}


def test_transformers_computes_the_same_through_a_second_node(hub, tmp_path):
    pytest.importorskip("transformers")
    with Node(hub.endpoint, tmp_path / "first") as first, Node(first.endpoint, tmp_path / "second") as second:
        direct = said(client(hub.endpoint, tmp_path / "direct", PRETRAINED, LANGUAGE))
        said(client(first.endpoint, tmp_path / "near", PRETRAINED, LANGUAGE))
        hub.forget()
        assert said(client(second.endpoint, tmp_path / "far", PRETRAINED, LANGUAGE)) == direct
    asked = [f"{seen['method']} {seen['path']}" for seen in hub.requests()]
    assert [line for line in asked if "/revision/" not in line] == []

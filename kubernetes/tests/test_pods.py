"""The manifests, checked against Kubernetes' own schemas, and their pods, run without a cluster. `.ci/kube` runs this as root,
with kubeconform, kustomize, their schemas and the container's file system in place."""

import json
import os
import socket
import stat
import subprocess
import tomllib
import urllib.request
from pathlib import Path

import pytest
from pods import PATIENCE, REPOSITORY, Image, Node, Pod, built, render, stop

SCHEMAS = os.environ["KUBE_SCHEMAS"]
ROOT = Path(os.environ["KUBE_ROOT"])  # Of container/assemble.
BUSYBOX = Path(os.environ["KUBE_BUSYBOX"])  # The folder of a static busybox.
MAKE_CHECKPOINT = os.environ["KUBE_MAKE_CHECKPOINT"]
DAEMONS = ["base", "overlays/mirror", "overlays/mirrors", "overlays/dragonfly"]
IMAGE = built(ROOT, REPOSITORY / "container/Containerfile")
OURS = "registry.example/weightsd:"
MODEL = "Tongyi-MAI/Z-Image-Turbo"


def conforms(text: str) -> subprocess.CompletedProcess:
    location = f"{SCHEMAS}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"
    command = ["kubeconform", "-strict", "-summary", "-schema-location", location, "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True)


def rendered(folder: str) -> str:
    return subprocess.run(
        ["kustomize", "build", REPOSITORY / "kubernetes" / folder], check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.parametrize("folder", [*DAEMONS, "example"])
def test_the_manifests_are_kubernetes(folder):
    judged = conforms(rendered(folder))
    assert judged.returncode == 0, judged.stdout
    assert "Invalid: 0, Errors: 0, Skipped: 0" in judged.stdout


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("readinessProbe:", "readynessProbe:", "readynessProbe"),
        ("hostPID: true", 'hostPID: "yes"', "hostPID"),
        ("maxUnavailable: 10%", "maxUnavailable: [10]", "maxUnavailable"),
        ("kind: DaemonSet", "kind: DemonSet", "DemonSet"),
    ],
)
def test_a_typo_is_found(right, wrong, said):
    text = rendered("base")
    assert right in text
    judged = conforms(text.replace(right, wrong))
    assert judged.returncode != 0 and said in judged.stdout, judged.stdout


def test_the_image_holds_one_program_and_no_way_to_become_root():
    programs, secret = [], []
    for path in ROOT.rglob("*"):
        if path.is_file() and not path.is_symlink():
            mode = path.stat().st_mode
            if mode & 0o111 and ".so" not in path.name:
                programs.append(path.relative_to(ROOT).as_posix())
            if mode & (stat.S_ISUID | stat.S_ISGID | 0o002):
                secret.append(path)
    assert programs == ["usr/local/bin/weightsd"]
    assert secret == []
    assert (ROOT / IMAGE.entry[0].lstrip("/")).is_file()
    assert IMAGE.user == "65532:65532", "a number, for runAsNonRoot, and the owner of the folders"
    for folder in ["run/weightsd", "var/lib/weightsd"]:
        assert (ROOT / folder).stat().st_uid == 65532 and (ROOT / folder).stat().st_mode & 0o777 == 0o700


@pytest.fixture
def node(tmp_path):
    busybox = tmp_path / "busybox"
    (busybox / "bin").mkdir(parents=True)
    for name in ["busybox", "sh", "chown", "chmod"]:
        os.link(BUSYBOX / "busybox", busybox / "bin" / name)
    made = Node(tmp_path, {OURS: IMAGE, "docker.io/library/busybox:": Image(busybox)})
    yield made
    made.end()


def daemon(node: Node, folder: str = "base") -> Pod:
    """A daemon's pod whose init containers have run."""
    objects = render(folder)
    if folder.endswith("dragonfly"):  # The site makes this one.
        authority = Path("/etc/ssl/certs/ca-certificates.crt").read_text()
        objects["ConfigMap", "dragonfly-ca"] = {"data": {"ca.crt": authority}}
    pod = node.pod(objects["DaemonSet", "weightsd"]["spec"]["template"], objects)
    pod.run("folders")
    return pod


@pytest.mark.parametrize("folder", DAEMONS)
def test_the_daemon_starts_as_another_user_on_a_read_only_disk_and_ends_when_told(node, folder):
    pod = daemon(node, folder)
    assert not pod.probe("weightsd", "startupProbe"), "nothing answers yet"
    process = pod.start("weightsd")
    pod.until("weightsd", "startupProbe")
    assert pod.probe("weightsd", "readinessProbe") and pod.probe("weightsd", "livenessProbe")

    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    assert status["Name"] == "weightsd"
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"65532"}
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0 and status["NoNewPrivs"] == "1"
    assert Path(f"/proc/{process.pid}/root").resolve() != Path("/")

    code, log = stop(process)
    assert code == 0, log
    assert not pod.probe("weightsd", "livenessProbe")
    kept = {path.name for path in node.path("/var/lib/weightsd").iterdir()}
    assert kept <= {"hub", "own"}, "nothing is written elsewhere"


def test_folders_that_hold_something_keep_it(node):
    pod = daemon(node)
    kept = node.path("/var/lib/weightsd") / "hub/models--org--model/blobs"
    kept.mkdir(parents=True)
    os.chown(kept, 1234, 1234)
    pod.run("folders")
    assert kept.stat().st_uid == 1234


def put_model(hub: Path) -> None:
    """Puts a small model into a daemon's cache."""
    make = [MAKE_CHECKPOINT, "--size", "tiny", "--layout", "hub-cache", "--repo", MODEL, hub]
    subprocess.run(make, check=True, capture_output=True)
    for path in [hub, *hub.rglob("*")]:
        os.chown(path, 65532, 65532, follow_symlinks=False)


def test_a_client_waits_for_its_node_and_reads_the_weights(node):
    """The whole of it: a pod of another user that came before the daemon, a daemon with a model in its cache, and a program
    that holds weights through the socket alone."""
    pod = daemon(node)
    put_model(node.path("/var/lib/weightsd/hub"))
    objects = render("example")
    client = node.pod(objects["Pod", "client"], objects)
    waiting = client.start("wait")
    process = pod.start("weightsd")
    said, _ = waiting.communicate(timeout=PATIENCE)
    assert waiting.returncode == 0, said

    # As stored: an image would need the room that the manifest's `free_space` leaves, which this machine may not have.
    hold = ["weightsd", "load", MODEL, "vae", "--layout", "source", "--hold"]
    holder = client.start("program", hold, IMAGE)
    assert "tensors" in holder.stdout.readline()
    ls = json.loads(pod.run("weightsd", ["/usr/local/bin/weightsd", "ls", "--json"]))
    holders = [holding for loaded in ls["components"] for holding in loaded.get("holders", [])]
    assert [holding["pid"] > 1 for holding in holders] == [True], "the daemon sees the process ids of the node"
    evicting = client.start("program", ["weightsd", "evict"], IMAGE)
    refused, _ = evicting.communicate(timeout=PATIENCE)
    assert evicting.returncode != 0, refused
    holder.kill()
    assert stop(process)[0] == 0


def test_a_pod_of_another_group_is_refused(node):
    pod = daemon(node)
    process = pod.start("weightsd")
    pod.until("weightsd", "readinessProbe")
    objects = render("example")
    objects["Pod", "client"]["spec"]["securityContext"]["runAsGroup"] = 10001
    client = node.pod(objects["Pod", "client"], objects)
    asking = client.start("program", ["weightsd", "status"], IMAGE)
    said, _ = asking.communicate(timeout=PATIENCE)
    assert asking.returncode == 69 and "version" not in said, said
    assert stop(process)[0] == 0


def test_a_mirror_serves_what_it_has_over_the_hubs_interface(node):
    objects = render("overlays/mirrors")
    [port] = objects["Service", "weightsd-mirror"]["spec"]["ports"]
    nodes = tomllib.loads(config(objects, objects["DaemonSet", "weightsd"])["config.toml"])
    assert nodes["hub_endpoint"] == f"http://weightsd-mirror.weightsd.svc:{port['port']}"
    mirrors = objects["StatefulSet", "weightsd-mirror"]
    settings = config(objects, mirrors)
    assert tomllib.loads(settings["config.toml"])["mirror_listen"] == f"0.0.0.0:{port['port']}"
    # The hub is away, so nobody can be asked who may have the model.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = "127.0.0.1:%d" % free.getsockname()[1]
    changes = [("0.0.0.0:8014", address), ('# mirror_allow = ["your-org/*"]', f'mirror_allow = ["{MODEL}"]')]
    for before, after in changes:
        assert before in settings["config.toml"]
        settings["config.toml"] = settings["config.toml"].replace(before, after)

    claims = [claim["metadata"]["name"] for claim in mirrors["spec"]["volumeClaimTemplates"]]
    pod = node.pod(mirrors["spec"]["template"], objects, claims)
    put_model(pod.volumes["cache"] / "hub")
    process = pod.start("weightsd")
    pod.until("weightsd", "startupProbe")
    with urllib.request.urlopen(f"http://{address}/api/models/{MODEL}/revision/main", timeout=PATIENCE) as answer:
        commit = json.load(answer)["sha"]
    with urllib.request.urlopen(f"http://{address}/{MODEL}/resolve/{commit}/model_index.json", timeout=PATIENCE) as answer:
        assert json.load(answer)["_class_name"]
    assert stop(process)[0] == 0


def config(objects: dict, owner: dict) -> dict:
    """The ConfigMap that the pods of `owner` mount as their settings."""
    volumes = owner["spec"]["template"]["spec"]["volumes"]
    name = next(volume["configMap"]["name"] for volume in volumes if volume["name"] == "config")
    return objects["ConfigMap", name]["data"]

"""Runs the pods of rendered manifests on a made-up node: folders for its disk, and containers without a container engine."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 60.0  # Seconds for what takes less than one.


def render(folder: str) -> dict[tuple[str, str], dict]:
    """What `kubectl apply -k` would send, by kind and name."""
    done = subprocess.run(["kustomize", "build", REPOSITORY / "kubernetes" / folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    documents = yaml.safe_load_all(done.stdout)
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


@dataclass(frozen=True)
class Image:
    """A container's file system, and what its Containerfile says of it."""

    root: Path
    entry: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    user: str = "0:0"
    environment: dict[str, str] = field(default_factory=dict)


def built(root: Path, containerfile: Path) -> Image:
    """The image that the last stage of a Containerfile describes, over a file system that was put together."""
    text = re.sub(r"\\\n", " ", containerfile.read_text())
    _, _, last = text.rpartition("\nFROM ")
    said = {}
    for line in last.splitlines()[1:]:
        instruction, _, rest = line.partition(" ")
        if instruction and not instruction.startswith("#"):
            said[instruction] = rest
    return Image(
        root=root,
        entry=tuple(json.loads(said["ENTRYPOINT"])),
        command=tuple(json.loads(said["CMD"])),
        user=said["USER"],
        environment=dict(word.split("=", 1) for word in shlex.split(said["ENV"])),
    )


class Node:
    """A machine of the cluster. `images` are the ones that it can run, by what their names begin with."""

    def __init__(self, folder: Path, images: dict[str, Image]) -> None:
        self.folder = folder
        self.images = images
        self.processes: list[subprocess.Popen] = []
        self.made = 0

    def path(self, on_node: str) -> Path:
        return self.folder / "node" / on_node.lstrip("/")

    def pod(self, template: dict, objects: dict, claims: Iterable[str] = ()) -> "Pod":
        """A pod of a template, with the volumes that it claims."""
        return Pod(self, template["spec"], objects, claims)

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()


class Pod:
    """A pod that was put on the node: its volumes are there, nothing runs."""

    def __init__(self, node: Node, spec: dict, objects: dict, claims: Iterable[str]) -> None:
        self.node, self.spec = node, spec
        node.made += 1
        self.folder = node.folder / f"pod-{node.made}"
        self.folder.mkdir(parents=True)
        self.volumes = {volume["name"]: self.volume(volume, objects) for volume in spec.get("volumes", [])}
        for claim in claims:  # A disk's folder is root's, and the group's of the pod.
            self.volumes[claim] = self.folder / claim
            self.volumes[claim].mkdir()
            os.chown(self.volumes[claim], 0, spec["securityContext"]["fsGroup"])
            self.volumes[claim].chmod(0o2775)

    def volume(self, volume: dict, objects: dict) -> Path:
        if "hostPath" in volume:
            path, kind = self.node.path(volume["hostPath"]["path"]), volume["hostPath"].get("type", "")
            if kind == "DirectoryOrCreate":
                path.mkdir(parents=True, exist_ok=True)
                return path
            assert kind == "Directory" and path.is_dir(), f"{path} is not there: the kubelet would not start this pod"
            return path
        path = self.folder / volume["name"]
        path.mkdir()
        if "emptyDir" in volume:
            path.chmod(0o777)
            return path
        kind, name = ("ConfigMap", "configMap") if "configMap" in volume else ("Secret", "secret")
        source = volume[name]
        found = objects.get((kind, source.get("name") or source.get("secretName")))
        assert found or source.get("optional"), f"there is no {kind} for volume {volume['name']}"
        for file, text in (found or {}).get("data", {}).items():
            (path / file).write_text(text)
            (path / file).chmod(source.get("defaultMode", 0o644))
        return path

    def container(self, name: str) -> dict:
        every = [*self.spec.get("initContainers", []), *self.spec["containers"]]
        return next(container for container in every if container["name"] == name)

    def start(self, name: str, command: list[str] | None = None, image: Image | None = None) -> subprocess.Popen:
        """A container of the pod; with `command`, another program in it."""
        container = self.container(name)
        image = image or next(image for prefix, image in self.node.images.items() if container["image"].startswith(prefix))
        security = {**self.spec.get("securityContext", {}), **container.get("securityContext", {})}
        user, _, group = image.user.partition(":")
        user, group = security.get("runAsUser", int(user)), security.get("runAsGroup", int(group))
        assert user or not security.get("runAsNonRoot"), f"{name}: runAsNonRoot forbids it"
        self.node.made += 1
        root = self.folder / f"{name}-{self.node.made}"
        shutil.copytree(image.root, root, symlinks=True, copy_function=os.link)
        words = [*container.get("command", image.entry), *container.get("args", () if "command" in container else image.command)]
        capabilities = security.get("capabilities", {})
        assert capabilities.get("drop") == ["ALL"], f"{name}: capabilities"
        spec = {
            "root": str(root),
            "read_only": security.get("readOnlyRootFilesystem", False),
            "volumes": [
                {
                    "source": str(self.volumes[mounted["name"]]),
                    "target": mounted["mountPath"],
                    "read_only": mounted.get("readOnly", False),
                }
                for mounted in container.get("volumeMounts", [])
            ],
            "user": user,
            "group": group,
            "groups": [security[name] for name in ["fsGroup"] if name in security],
            "capabilities": capabilities.get("add", []),
            "no_new_privileges": not security.get("allowPrivilegeEscalation", True),
            "environment": {"PATH": "/usr/local/bin:/usr/bin:/bin", **image.environment, **self.environment(container)},
            "command": command or words,
        }
        # A container has process ids of its own, unless the pod has the node's.
        apart = [] if self.spec.get("hostPID") else ["--pid", "--fork", "--kill-child"]
        process = subprocess.Popen(
            ["unshare", "--mount", *apart, sys.executable, Path(__file__).with_name("contain.py"), json.dumps(spec)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.node.processes.append(process)
        return process

    def environment(self, container: dict) -> dict[str, str]:
        """The container's variables; the hub is away here."""
        values = {"HF_HUB_OFFLINE": "1"}
        for variable in container.get("env", []):
            value = variable.get("value")
            if value is None:
                assert variable["valueFrom"]["fieldRef"]["fieldPath"] == "status.hostIP", variable
                value = "192.0.2.1"
            values[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda match: values[match[1]], value)
        return values

    def run(self, name: str, command: list[str] | None = None, image: Image | None = None) -> str:
        """A container of the pod that ends well, and what it said."""
        process = self.start(name, command, image)
        said, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, f"{name} ended with {process.returncode}: {said}"
        return said

    def probe(self, name: str, kind: str) -> bool:
        """Whether a probe of a container succeeds."""
        process = self.start(name, self.container(name)[kind]["exec"]["command"])
        process.communicate(timeout=PATIENCE)
        return process.returncode == 0

    def until(self, name: str, kind: str) -> None:
        """Waits for a probe of a container to succeed."""
        deadline = time.monotonic() + PATIENCE
        while not self.probe(name, kind):
            assert time.monotonic() < deadline, f"{kind} of {name} does not succeed"
            time.sleep(0.1)


def stop(process: subprocess.Popen) -> tuple[int, str]:
    """Ends a container's program as the kubelet does, and returns its exit code and what it said."""
    first = process.pid
    if "--fork" in process.args:  # A container with process ids of its own: `unshare` passes no signal on.
        [first] = map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())
    os.kill(first, signal.SIGTERM)
    said, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, said

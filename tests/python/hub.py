"""The test hub of tests/support as a process: it serves directories as a Hugging Face hub would, with faults on request."""

import json
import os
import subprocess
import urllib.request
from pathlib import Path

TARGET = Path(os.environ.get("CARGO_TARGET_DIR", Path(__file__).parents[2] / "target"))
PROGRAM = TARGET / "debug/examples/test-hub"


class Hub:
    """A running hub. `commits` has the commit of each repository."""

    def __init__(self, *repositories: tuple[str, Path], arguments: tuple[str, ...] = ()):
        assert PROGRAM.is_file(), f"{PROGRAM} is missing: cargo build --workspace --example test-hub"
        command = [str(PROGRAM), *arguments]
        for repository, root in repositories:
            command += ["--repo", f"{repository}={root}"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        address = json.loads(self.process.stdout.readline())
        self.endpoint, self.commits = address["endpoint"], address["commits"]

    def __enter__(self) -> "Hub":
        return self

    def __exit__(self, *_) -> None:
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()

    def requests(self) -> list[dict]:
        """What was asked so far, but for what Python asks once in every process."""
        return json.loads(self._control("GET", "requests"))

    def forget(self) -> None:
        """Empties the list of requests."""
        self._control("POST", "clear-log")

    def fault(self, fault: dict | str, **on: str) -> None:
        """Puts a fault in force for the requests that `on` describes."""
        self._control("POST", "fault", {"on": on, "fault": fault})

    def mend(self) -> None:
        """Takes all faults away."""
        self._control("DELETE", "faults")

    def _control(self, method: str, path: str, body: dict | None = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.endpoint}/_test/{path}", data, method=method)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
            return answer.read()

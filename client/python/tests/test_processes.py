"""Several processes, children, threads, and the end of the interpreter in any order."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import Daemon, python, write_safetensors

import weightsd

pytest.importorskip("torch")

MIB = 1 << 20


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """256 MiB in 64 tensors, each of numbers of its own."""
    block = np.arange(MIB, dtype=np.float32)
    tensors = {f"layer.{number}": ("F32", [1024, 1024], (block + number).tobytes()) for number in range(64)}
    return write_safetensors(tmp_path_factory.mktemp("large") / "large.safetensors", tensors)


HOLDER = """
import sys, weightsd
component = weightsd.load(sys.argv[1], progress=False)
arrays = getattr(component, sys.argv[2])()
read = lambda: sum(float(array.sum()) for array in arrays.values())

def private():
    fields = {}
    for line in open("/proc/self/smaps"):
        words = line.split()
        if "-" in words[0]:
            here = sys.argv[1] in line
        elif here and words[-1] == "kB":
            fields[words[0]] = fields.get(words[0], 0) + int(words[1])
    return fields

first = read()
print("ready", flush=True)
sys.stdin.readline()
fields = private()
# Dirty is what the disk does not have yet, wherever it is from; anonymous is what no file has.
shared = fields["Shared_Clean:"] + fields["Shared_Dirty:"]
alone = fields["Private_Clean:"] + fields["Private_Dirty:"]
print(fields["Rss:"], shared, alone, fields["Anonymous:"], first)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps")
@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_ten_processes_share_the_pages(daemon: Daemon, large: Path, library: str) -> None:
    command = [sys.executable, "-c", HOLDER, str(large), library]
    holders = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(10)
    ]
    try:
        for holder in holders:
            assert holder.stdout is not None and holder.stdout.readline() == "ready\n"
        for holder in holders:
            said, _ = holder.communicate("go\n", timeout=300)
            resident, shared, alone, own, _ = said.split()
            assert int(resident) >= 256 * 1024, "it has read everything"
            assert int(own) == 0, "kB that are this process's alone"
            if holder is not holders[-1]:
                assert int(alone) < 256 * 1024 // 100 and int(shared) >= 255 * 1024
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()


def test_a_page_that_is_written_to_is_the_only_private_one(daemon: Daemon, large: Path) -> None:
    code = HOLDER.replace("first = read()", "first = read(); arrays['layer.0'][0, 0] = 5")
    done = subprocess.run(
        [sys.executable, "-c", code, str(large), "numpy"], input="go\n", capture_output=True, text=True, timeout=300
    )
    assert int(done.stdout.splitlines()[1].split()[3]) == 4, "one page of 4 KiB"


def test_arrays_outlive_the_daemon_and_the_next_one_serves(own_daemon: Daemon, large: Path) -> None:
    component = weightsd.load(large, socket=own_daemon.socket)
    array, untouched = component["layer.3"].numpy(), component["layer.5"]
    own_daemon.process.kill()
    own_daemon.process.wait()
    assert array[0, 1] == 4 and untouched.torch()[0, 0] == 5
    deadline = threading.Event()
    for _ in range(500):
        if not component.leased:
            break
        deadline.wait(0.02)
    assert not component.leased
    own_daemon.process = own_daemon.run()
    again = weightsd.load(large, socket=own_daemon.socket)
    assert again.leased and again["layer.3"].numpy()[0, 1] == 4


def test_threads_load_and_close_at_the_same_time(daemon: Daemon, large: Path) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for number in range(20):
                with weightsd.load(large, progress=False) as component:
                    assert component[f"layer.{number}"].numpy()[0, 0] == number
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []


FORK = """
import os, sys, weightsd
component = weightsd.load(sys.argv[1], progress=False)
array = component["layer.2"].numpy()
child = os.fork()
if child == 0:
    assert array[0, 0] == 2 and component["layer.9"].torch()[0, 0] == 9
    assert not component.leased, "the lease is the parent's"
    component.close()
    del component
    with weightsd.load(sys.argv[1], progress=False) as mine:
        assert mine.leased and mine["layer.4"].numpy()[0, 0] == 4
    print(weightsd.status().pid > 0, flush=True)
    sys.exit(0)
_, status = os.waitpid(child, 0)
assert status == 0
assert component.leased and array[0, 0] == 2 and weightsd.load(sys.argv[1], progress=False).leased
print("parent", flush=True)
"""


def test_a_child_that_fork_made_reads_and_loads(daemon: Daemon, large: Path) -> None:
    assert python(FORK, large) == "True\nparent\n"


SPAWN = """
import multiprocessing, sys, weightsd

def work(path):
    with weightsd.load(path, progress=False) as component:
        return float(component["layer.6"].numpy()[0, 0])

if __name__ == "__main__":
    weightsd.load(sys.argv[1], progress=False)
    for method in sys.argv[2:]:
        with multiprocessing.get_context(method).Pool(2) as pool:
            print(pool.map(work, [sys.argv[1]] * 4))
"""


def test_pools_of_every_kind_work(daemon: Daemon, large: Path, tmp_path: Path) -> None:
    script = tmp_path / "pool.py"
    script.write_text(SPAWN)
    command = [sys.executable, script, large, "spawn", "fork", "forkserver"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout == "[6.0, 6.0, 6.0, 6.0]\n" * 3, done.stderr


ENDINGS = {
    "component in a global": "component = weightsd.load(path)",
    "array in a global": "array = weightsd.load(path)['layer.1'].numpy()",
    "tensor of torch in a global": "tensor = weightsd.load(path)['layer.1'].torch()",
    "capsule in a global": "capsule = weightsd.load(path)['layer.1'].__dlpack__(max_version=(1, 0))",
    "taken capsule": "import numpy; taken = numpy.from_dlpack(weightsd.load(path)['layer.1'])",
    "events that are waited for": """
import threading
threading.Thread(target=lambda: list(weightsd.events(follow=True)), daemon=True).start()
import time; time.sleep(0.2)
""",
    "a circle with a finaliser": """
class Circle:
    def __init__(self): self.me, self.component = self, weightsd.load(path)
    def __del__(self): self.component.close()
circle = Circle()
""",
    "at exit": "import atexit; component = weightsd.load(path); atexit.register(lambda: component['layer.1'].numpy())",
    "module first": "component = weightsd.load(path); del sys.modules['weightsd'], weightsd",
    "an exception": "component = weightsd.load(path)\ntry: raise KeyError\nexcept KeyError: pass",
    "asyncio": "import asyncio; component = asyncio.run(weightsd.aio.load(path))",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_interpreter_ends_well_with(daemon: Daemon, large: Path, ending: str) -> None:
    code = f"import sys, weightsd\npath = sys.argv[1]\n{ENDINGS[ending]}\nprint('end')"
    assert python(code, large) == "end\n"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self")
def test_ten_thousand_loads_leave_nothing_behind(daemon: Daemon, tmp_path: Path) -> None:
    file = write_safetensors(tmp_path / "x.safetensors", {"a": ("F32", [4], bytes(16))})

    def count() -> tuple[int, int]:
        gc.collect()
        return len(os.listdir("/proc/self/fd")), len(Path("/proc/self/maps").read_text().splitlines())

    def load(times: int) -> None:
        for number in range(times):
            component = weightsd.load(file, progress=False)
            component["a"].numpy()
            component["a"].__dlpack__()
            if number % 2:
                component.close()

    load(100)
    files, maps = count()
    load(10_000)
    later_files, later_maps = count()
    assert later_files <= files + 3, "an idle connection of the hand-off may have been made anew"
    assert later_maps <= maps + 30, "the allocator of C maps, too"

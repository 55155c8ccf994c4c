"""Weights in VRAM once, against each process holding its own. See README.md beside this file."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

#: The dtypes that torch and safetensors have in common.
DTYPES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8, "F16": 2, "BF16": 2, "F32": 4, "F64": 8,
          "F8_E4M3": 1, "F8_E5M2": 1, "C64": 8}  # fmt: skip
TENSORS = 521


def write_weights(path: Path, gigabytes: float, dtype: str = "BF16") -> int:
    """A file of 521 tensors, as many as a Z-Image transformer has. Returns the bytes of its tensors."""
    width = DTYPES[dtype]
    rows = max(1, int(gigabytes * 1e9 / TENSORS / width / 4096))
    shape, length = [rows, 4096], rows * 4096 * width
    header = {
        f"layers.{number:03}.weight": {
            "dtype": dtype, "shape": shape, "data_offsets": [number * length, (number + 1) * length]
        }
        for number in range(TENSORS)
    }  # fmt: skip
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    block = bytearray(os.urandom(1 << 20) * (length // (1 << 20) + 1))[:length]
    # No infinities and no NaNs: sums are compared.
    block[width - 1 :: width] = bytes(byte & 0xBF for byte in block[width - 1 :: width])
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for number in range(TENSORS):
            block[0:4] = number.to_bytes(4, "little")
            file.write(block)
    return TENSORS * length


def write_dtypes(path: Path) -> None:
    header, data = {}, b""
    for name, width in DTYPES.items():
        content = bytes([0, 1] * 12) if name == "BOOL" else os.urandom(24 * width)
        header[name] = {"dtype": name, "shape": [3, 8], "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


class Daemon:
    def __init__(self, program: str, folder: Path, *arguments: str) -> None:
        self.program, self.folder, self.arguments = program, folder, arguments
        self.socket, self.log = folder / "s", folder / "log"
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "HOME": str(self.folder), "HF_HUB_OFFLINE": "1", "WEIGHTSD_CONFIG": "/dev/null"}
        with self.log.open("ab") as log:
            command = [self.program, "serve", "--socket", str(self.socket), "--verify", "false", *self.arguments]
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        while not self.socket.exists() or self.command("status").returncode:
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.01)

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [self.program, "--socket", str(self.socket), *words]
        return subprocess.run(command, capture_output=True, text=True)

    def evict(self) -> None:
        self.command("evict")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.socket.unlink(missing_ok=True)

    def facts(self) -> str:
        """Where the time of the last load onto a card went, by the daemon's log."""
        lines = [line for line in self.log.read_text().splitlines() if "component is on the card" in line]
        plain = re.sub(r"\x1b\[[0-9;]*m", "", lines[-1]) if lines else ""
        return " ".join(re.findall(r"(?:took|context_ms|copy_ms)=\S+", plain))


def used(card: int = 0) -> int:
    """MiB in use on a card, by the driver."""
    query = ["nvidia-smi", f"--id={card}", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.check_output(query, text=True))


def settles(expected: int, card: int = 0, within: float = 20.0) -> int:
    """Waits until so many MiB are in use, and returns how many are."""
    deadline = time.monotonic() + within
    while (found := used(card)) != expected and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


#: A process with a context of its own, which does what it is told and says what came of it, a line each.
CHILD = r"""
import os, sys, time
import torch
device = sys.argv[1]
torch.cuda.set_device(device)
begun = time.perf_counter(); torch.cuda.synchronize(); torch.empty(1, device=device)
print(f"{(time.perf_counter() - begun) * 1e3:.1f}", flush=True)
for line in sys.stdin:
    word, *rest = line.split()
    begun = time.perf_counter()
    if word == "attach":
        import weightsd
        client = time.perf_counter()
        component = weightsd.load(rest[0], "model", layout="source", progress=False)
        loaded = time.perf_counter()
        card = component.on_card(device)
        attached = time.perf_counter()
        tensors = card.torch()
        done = time.perf_counter()
        first = next(iter(tensors.values())).data_ptr()
        print(f"{(attached-client)*1e3:.2f} {(done-client)*1e3:.2f} {(attached-loaded)*1e3:.2f} {len(tensors)} {first}", flush=True)
    elif word == "again":
        samples = []
        for _ in range(int(rest[1])):
            begun = time.perf_counter()
            with weightsd.load(rest[0], "model", layout="source", progress=False) as part, part.on_card(device) as card:
                attached = time.perf_counter()
                made = card.torch()
                samples.append(((attached-begun)*1e3, (time.perf_counter()-begun)*1e3))
            del made, card, part
        attach, whole = (sorted(column) for column in zip(*samples))
        middle = len(samples) // 2
        print(f"{attach[middle]:.2f} {whole[middle]:.2f} {whole[-1]:.2f}", flush=True)
    elif word == "sum":
        print(sum(float(tensor.view(torch.uint8).sum(dtype=torch.int64)) for tensor in tensors.values()), flush=True)
    elif word == "own":
        from safetensors.torch import load_file
        begun = time.perf_counter(); own = load_file(rest[0], device=device); torch.cuda.synchronize()
        print(f"{(time.perf_counter() - begun) * 1e3:.1f}", flush=True)
    elif word == "fast":
        from fastsafetensors import SafeTensorsFileLoader, SingleGroup
        begun = time.perf_counter()
        loader = SafeTensorsFileLoader(SingleGroup(), device, nogds=True); loader.add_filenames({0: [rest[0]]})
        own = loader.copy_files_to_device(); kept = [own.get_tensor(name) for name in own.key_to_rank_lidx]
        torch.cuda.synchronize(); print(f"{(time.perf_counter() - begun) * 1e3:.1f}", flush=True)
    elif word == "write":
        try:
            next(iter(tensors.values())).fill_(1.0); torch.cuda.synchronize(); print("written", flush=True)
        except Exception as error:
            print(type(error).__name__, str(error).splitlines()[0][:90], flush=True)
    elif word == "close":
        card.close(); component.close(); print("closed", flush=True)
    elif word == "logits":
        torch.manual_seed(0)
        names = list(tensors)[:8]; x = torch.randn(4, 4096, device=device, dtype=torch.bfloat16) * 0.01
        def forward(weights):
            y = x
            for name in names: y = torch.nn.functional.rms_norm(y @ weights[name][:4096].nan_to_num().clamp(-1, 1).T, (weights[name][:4096].shape[0],))[:, :4096]; y = torch.nn.functional.pad(y, (0, 4096 - y.shape[1]))
            return y
        own = {name: tensors[name].clone() for name in names}
        print(torch.equal(forward(tensors), forward(own)), flush=True)
    elif word == "equal":
        from safetensors.torch import load_file
        theirs = load_file(rest[0])
        same = all(torch.equal(tensors[n].cpu().contiguous().view(torch.uint8), t.contiguous().view(torch.uint8)) for n, t in theirs.items())
        print(same and len(theirs) == len(tensors), flush=True)
"""


class Child:
    def __init__(self, daemon: Daemon, device: str = "cuda:0") -> None:
        environment = {**os.environ, "WEIGHTSD_SOCKET": str(daemon.socket), "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, device],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.context = self.said()

    def said(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, "the process ended"
        return line.strip()

    def tell(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def does(self, line: str) -> str:
        self.tell(line)
        return self.said()

    def end(self, how: int = signal.SIGKILL) -> None:
        self.process.send_signal(how)
        self.process.wait()


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def heading(title: str, *columns: str) -> None:
    print(f"\n## {title}\n", flush=True)
    if columns:
        row(*columns)
        row(*["---"] * len(columns))


def must(what: str, holds: bool, found: object = "") -> None:
    print(f"- {what}: {'yes' if holds else 'NO'} {found}", flush=True)
    if not holds:
        FAILURES.append(what)


FAILURES: list[str] = []


def pinned_rate() -> float:
    """GB/s of a copy from pinned memory: the limit of the link."""
    code = (
        "import torch,time\n"
        "a=torch.empty(1<<30,dtype=torch.uint8,pin_memory=True); b=torch.empty(4<<30,dtype=torch.uint8,device='cuda')\n"
        "for _ in range(2):\n"
        "  torch.cuda.synchronize(); t=time.perf_counter()\n"
        "  for i in range(4): b[i<<30:(i+1)<<30].copy_(a,non_blocking=True)\n"
        "  torch.cuda.synchronize(); r=(4<<30)/(time.perf_counter()-t)/1e9\n"
        "print(r)"
    )
    return float(subprocess.check_output([sys.executable, "-c", code], text=True))


def first_load(daemon: Daemon, file: Path, device: str = "cuda:0") -> tuple[float, str]:
    """Seconds from the request to a sealed component that is not there yet, warm or cold; no reader's context is in it."""
    uuid = subprocess.check_output(["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"], text=True).split()
    words = ["load", str(file), "model", "--layout", "source", "--device", uuid[int(device[5:])]]
    begun = time.perf_counter()
    done = daemon.command(*words)
    took = time.perf_counter() - begun
    assert done.returncode == 0, done.stderr
    return took, daemon.facts()


def loads(daemon: Daemon, files: dict[str, tuple[Path, int]], rate: float) -> None:
    heading("First load, from request to sealed", "file", "GB", "s", "GB/s", "of a pinned copy", "of the loader's copy alone", "log")
    for name, (file, length) in files.items():
        for _ in range(2):
            daemon.evict()
            settles(0)
            took, facts = first_load(daemon, file)
            copying = int(re.findall(r"copy_ms=(\d+)", facts)[0]) / 1e3
            row(name, f"{length / 1e9:.1f}", f"{took:.2f}", f"{length / took / 1e9:.1f}", f"{length / took / 1e9 / rate:.2f}",
                f"{length / copying / 1e9:.1f} GB/s, {length / copying / 1e9 / rate:.2f}", facts)  # fmt: skip


def cold(daemon: Daemon, file: Path, length: int) -> None:
    heading("Cold, from the disk", "way", "s", "GB/s")
    drop = lambda: (os.sync(), Path("/proc/sys/vm/drop_caches").write_text("3"))  # noqa: E731
    for _ in range(2):
        drop()
        begun = time.perf_counter()
        subprocess.run(["dd", f"if={file}", "of=/dev/null", "bs=16M"], check=True, stderr=subprocess.DEVNULL)
        took = time.perf_counter() - begun
        row("dd to /dev/null", f"{took:.2f}", f"{length / took / 1e9:.2f}")
        daemon.evict()
        settles(0)
        drop()
        took, facts = first_load(daemon, file)
        row(f"weightsd onto the card ({facts})", f"{took:.2f}", f"{length / took / 1e9:.2f}")


def attach(daemon: Daemon, files: dict[str, tuple[Path, int]]) -> None:
    heading("A second process, warm, beyond its own context", "GB", "to CardTensors, ms", "to torch tensors, ms",
            "again, p50 of 50", "p50 with torch tensors", "max", "load_file(cuda), ms", "fastsafetensors, ms")  # fmt: skip
    for file, length in files.values():
        daemon.evict()
        first_load(daemon, file)
        child = Child(daemon)
        attached, whole, _, count, _ = child.does(f"attach {file}").split()
        assert count == str(TENSORS)
        again = child.does(f"again {file} 50").split()
        child.end()
        child = Child(daemon)
        own = child.does(f"own {file}")
        child.end()
        child = Child(daemon)
        child.tell(f"fast {file}")
        try:
            fast = child.said()
        except AssertionError:
            fast = "not installed"
        child.end()
        row(f"{length / 1e9:.1f}", attached, whole, *again, own, fast)


def memory(daemon: Daemon, file: Path) -> None:
    heading("VRAM, in MiB by the driver")
    daemon.evict()
    settles(0)
    alone = [Child(daemon) for _ in range(2)]
    of_one = (used() - 0) // 2
    for child in alone:
        child.end()
    settles(0)
    first_load(daemon, file)
    time.sleep(1)
    weights = used()
    children = [Child(daemon) for _ in range(10)]
    contexts = used() - weights
    for child in children:
        child.tell(f"attach {file}")
    times = sorted(float(child.said().split()[1]) for child in children)
    after = used() - weights - contexts
    print(f"- the weights: {weights}; a context: {of_one}; ten contexts: {contexts}", flush=True)
    must("ten processes that attach take no MiB beside their contexts", after < 10, f"({after} MiB in all)")
    print(f"- ten at once, request to torch tensors: {times[0]:.1f} to {times[-1]:.1f} ms", flush=True)
    sums = {child.does("sum") for child in children}
    must("ten processes read the same", len(sums) == 1)
    print(f"- a reader writes: {children[0].does('write')}", flush=True)
    must("the others read on after a reader's write", {child.does("sum") for child in children[1:]} == sums)
    for child in children:
        child.end()
    must("memory after ten readers were killed is what is held", settles(weights) == weights, f"({used()} MiB)")


def values(daemon: Daemon, dtypes: Path, file: Path) -> None:
    heading("Values")
    child = Child(daemon)
    child.does(f"attach {dtypes}")
    must(f"every dtype has the bytes of the file ({', '.join(DTYPES)})", child.does(f"equal {dtypes}") == "True")
    child.does(f"attach {file}")
    must("521 tensors have the bytes of the file", child.does(f"equal {file}") == "True")
    must("a torch model computes the same on them as on its own copy", child.does("logits") == "True")
    child.end()


def loader_of(daemon: Daemon) -> int | None:
    found = subprocess.run(["pgrep", "-P", str(daemon.process.pid), "-f", "vram-loader"], capture_output=True, text=True)
    return int(found.stdout.split()[0]) if found.stdout.strip() else None


def kills(daemon: Daemon, file: Path, length: int) -> None:
    heading("Killed")
    daemon.evict()
    settles(0)
    step = first_load(daemon, file)[0] / 12
    daemon.evict()
    settles(0)
    died = 0
    uuid = subprocess.check_output(["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"], text=True).split()[0]
    words = ["load", str(file), "model", "--layout", "source", "--device", uuid]
    for number in range(12):
        asking = subprocess.Popen([daemon.program, "--socket", str(daemon.socket), *words], stdout=subprocess.DEVNULL,
                                  stderr=subprocess.PIPE, text=True)  # fmt: skip
        begun = time.perf_counter()
        while (loader := loader_of(daemon)) is None and asking.poll() is None:
            time.sleep(0.002)
        time.sleep(max(0.0, step * number - (time.perf_counter() - begun)))
        if loader is not None and asking.poll() is None:
            os.kill(loader, signal.SIGKILL)
        said = asking.communicate()[1]
        if asking.returncode:
            died += 1
            assert "ended without a result" in said, said
            assert "memory of card" not in daemon.command("ls").stdout, "half-filled and listed"
        daemon.evict()
        found = settles(0)
        assert found == 0, f"{found} MiB after kill {number}"
    must("loaders killed at twelve moments: nothing is listed, and the driver has all memory back", died >= 6, f"({died} died)")

    child = Child(daemon)
    first_load(daemon, file)
    child.does(f"attach {file}")
    before = child.does("sum")
    daemon.kill()
    must("a reader goes on when the daemon is killed", child.does("sum") == before)
    daemon.start()
    held = used()
    must("a restarted daemon lists nothing on a card", "memory of card" not in daemon.command("ls").stdout)
    child.end()
    must("the memory is free when that reader is gone", settles(0) == 0, f"({held} MiB before, {used()} after)")

    first_load(daemon, file)
    child = Child(daemon)
    child.does(f"attach {file}")
    child.does("close")
    time.sleep(0.5)
    daemon.evict()
    status = daemon.command("status").stdout
    must("what an importer keeps after eviction is accounted", "which was dropped, are kept by processes" in status)
    print("```\n" + "\n".join(line for line in status.splitlines() if "card" in line or "dropped" in line) + "\n```")
    child.end()
    must("it is free when the importer is gone", settles(0) == 0)
    loading = subprocess.Popen([daemon.program, "--socket", str(daemon.socket), *words], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    while loader_of(daemon) is None and loading.poll() is None:
        time.sleep(0.002)
    time.sleep(step * 8)
    daemon.kill()
    loading.wait()
    must("a daemon killed while a loader fills leaves nothing", settles(0) == 0)
    daemon.start()


def two_cards(daemon: Daemon, file: Path) -> None:
    heading("Two cards")
    daemon.evict()
    settles(0)
    settles(0, 1)
    first_load(daemon, file, "cuda:1")
    time.sleep(1)
    must("a component on the second card takes nothing of the first", used(0) == 0, f"({used(0)}, {used(1)} MiB)")
    second = Child(daemon, "cuda:1")
    second.does(f"attach {file}")
    # What the driver takes for having seen the card is a few MiB; a context is some hundreds.
    must("a reader of the second has no context on the first", used(0) < 64, f"({used(0)}, {used(1)} MiB)")
    first = Child(daemon, "cuda:0")
    first.does(f"attach {file}")
    must("both read the same", first.does("sum") == second.does("sum"))
    first.end()
    second.end()
    daemon.evict()
    must("both are free again", (settles(0), settles(0, 1)) == (0, 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weightsd", required=True)
    parser.add_argument("--folder", type=Path, required=True, help="a new folder on a tmpfs")
    parser.add_argument("--disk", type=Path, help="a new folder on a disk, for the same and for cold reads")
    parser.add_argument("--gb", type=float, default=12.3)
    parser.add_argument("--cards", type=int, default=1)
    parser.add_argument("--only-cards", action="store_true", help="nothing but the part about two cards")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True)
    small, large, dtypes = folder / "small.safetensors", folder / "large.safetensors", folder / "dtypes.safetensors"
    files = {"tmpfs, small": (small, write_weights(small, arguments.gb / 10))}
    write_dtypes(dtypes)
    home = folder / "home"
    home.mkdir(mode=0o700)
    daemon = Daemon(str(Path(arguments.weightsd).absolute()), home)
    try:
        if not arguments.only_cards:
            files["tmpfs"] = (large, write_weights(large, arguments.gb))
            if arguments.disk:
                arguments.disk.mkdir(parents=True)
                on_disk = arguments.disk / "large.safetensors"
                files["disk"] = (on_disk, write_weights(on_disk, arguments.gb))
            print(subprocess.check_output(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], text=True))
            rate = pinned_rate()
            print(f"A copy from pinned memory: {rate:.1f} GB/s; {os.cpu_count()} cores", flush=True)
            loads(daemon, files, rate)
            attach(daemon, {name: file for name, file in files.items() if name != "disk"})
            memory(daemon, large)
            values(daemon, dtypes, small)
            kills(daemon, large, files["tmpfs"][1])
            if arguments.disk:
                cold(daemon, *files["disk"])
        if arguments.cards > 1:
            two_cards(daemon, small)
    finally:
        daemon.kill()
    print("\n" + (f"FAILED: {'; '.join(FAILURES)}" if FAILURES else "all of it holds"), flush=True)
    sys.exit(bool(FAILURES))


if __name__ == "__main__":
    main()

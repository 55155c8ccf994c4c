"""Computing on many cores: F32 to BF16 and to 4 bits, from the page cache, to a tmpfs and to a disk. See README.md beside this
file. It needs no card."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import threading
import time
from pathlib import Path

from vram import Daemon, heading, row, write_weights

CASES = {"F32 to BF16": ["--dtype", "bf16"], "F32 to affine 4-bit, groups of 64": ["--quantise", "affine:4:64"]}


class Watch(threading.Thread):
    """Looks at the process that computes: its private memory, and when it had written everything."""

    def __init__(self, daemon: int) -> None:
        super().__init__(daemon=True)
        self.parent, self.peak, self.threads, self.written, self.ended = daemon, 0, 0, 0, False
        self.first, self.at = 0.0, 0.0
        self.start()

    def run(self) -> None:
        while not self.ended:
            for process in subprocess.run(["pgrep", "-P", str(self.parent)], capture_output=True, text=True).stdout.split():
                try:
                    status = Path(f"/proc/{process}/status").read_text()
                    written = int(re.findall(r"wchar: (\d+)", Path(f"/proc/{process}/io").read_text())[0])
                except (OSError, IndexError):
                    continue
                memory = dict(re.findall(r"(RssAnon|RssShmem):\s+(\d+)", status))
                self.peak = max(self.peak, int(memory.get("RssAnon", 0)))
                self.threads = max(self.threads, int(re.findall(r"Threads:\s+(\d+)", status)[0]))
                # Through the file, or into its pages. Reports are written, too: a megabyte is more than all of them.
                written = max(written, int(memory.get("RssShmem", 0)) * 1024)
                if written > self.written + (1 << 20):
                    self.written, self.at = written, time.perf_counter()
                    self.first = self.first or self.at
            time.sleep(0.01)


def rates(program: str, folder: Path, gigabytes: float, name: str) -> None:
    file = folder / "weights.safetensors"
    length = write_weights(file, gigabytes, "F32")
    for case, words in CASES.items():
        for _ in range(3):
            home = folder / "home"
            home.mkdir(mode=0o700)
            daemon = Daemon(program, home, "--own-cache", str(folder / "own"))
            file.read_bytes() if gigabytes < 1 else subprocess.run(["cat", file], stdout=subprocess.DEVNULL, check=True)
            watch = Watch(daemon.process.pid)
            begun = time.perf_counter()
            done = daemon.command("load", str(file), "model", *words)
            took = time.perf_counter() - begun
            watch.ended = True
            assert done.returncode == 0, done.stderr
            computing = length / max(watch.at - watch.first, 1e-3) / 1e9
            row(name, case, f"{took:.2f}", f"{length / took / 1e9:.1f}", f"{computing:.1f}", watch.threads,
                f"{watch.peak / 1e3:.0f}")  # fmt: skip
            daemon.kill()
            subprocess.run(["rm", "-rf", folder / "own", home], check=True)
    file.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weightsd", required=True)
    parser.add_argument("--folder", type=Path, action="append", required=True, help="a new folder; may be given again")
    parser.add_argument("--gb", type=float, default=11.6)
    arguments = parser.parse_args()
    heading(f"F32 to less, {arguments.gb} GB in the page cache, {os.cpu_count()} cores", "folder", "what", "s",
            "GB/s of input, from request to lent", "while it computed and wrote", "threads",
            "private memory, MB")  # fmt: skip
    for folder in arguments.folder:
        folder.mkdir(parents=True, mode=0o700)
        kind = subprocess.check_output(["stat", "-f", "-c", "%T", folder], text=True).strip()
        rates(str(Path(arguments.weightsd).absolute()), folder, arguments.gb, f"{folder} ({kind})")


if __name__ == "__main__":
    main()

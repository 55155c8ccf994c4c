"""From an S3 store to verified files: weightsd against rclone and the AWS command line, over the same objects in the same run.

    python object_store.py PROGRAM FOLDER [--megabytes 1000] [--rounds 5] [--aws aws] [--rclone rclone]

PROGRAM is weightsd's, FOLDER is where files go. The AWS command line needs the package awscrt for its faster transfer. The
store is this script's: it sends objects from memory (/dev/shm) by sendfile and looks at no signature, so it is no limit; a
curl that drops what comes says what it gives. The others start anew for each download; what one byte takes them is taken off.
"""

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

PART = 8 << 20  # Bytes of the parts in which objects were stored, as the AWS command line stores them.
# Nothing of the user's own: no profile, no proxy, no authority.
USUAL = {name: value for name, value in os.environ.items() if not name.startswith("AWS_") and not name.lower().endswith("_proxy")}
KEYS = {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark", "AWS_REGION": "us-east-1"}


class Store(BaseHTTPRequestHandler):
    """One bucket, `models`: listings, heads, and objects by range."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    objects: dict[str, tuple[int, int, str]] = {}  # By key: descriptor, bytes, etag.

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        _, _, key = urllib.parse.unquote(url.path).lstrip("/").partition("/")
        if not key:
            return self.send(200, self.listing(query.get("prefix", "")))
        if key not in self.objects:
            return self.send(404, b"<Error><Code>NoSuchKey</Code></Error>")
        file, size, etag = self.objects[key]
        first, last = 0, size - 1
        if wanted := self.headers.get("range"):
            start, _, end = wanted.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(end or last), last)
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", etag)
        self.send_header("Last-Modified", "Mon, 02 Nov 2026 00:00:00 GMT")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        self.wfile.flush()
        while self.command == "GET" and first <= last:
            first += os.sendfile(self.connection.fileno(), file, first, last - first + 1)

    def send(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def listing(self, prefix):
        entry = "<Contents><Key>{}</Key><LastModified>2026-11-02T00:00:00Z</LastModified><ETag>{}</ETag><Size>{}</Size></Contents>"
        found = [(key, etag, size) for key, (_, size, etag) in sorted(self.objects.items()) if key.startswith(prefix)]
        entries = "".join(entry.format(escape(key), escape(etag), size) for key, etag, size in found)
        text = f"<Name>models</Name><Prefix>{escape(prefix)}</Prefix><IsTruncated>false</IsTruncated>{entries}"
        return f"<?xml version='1.0'?><ListBucketResult>{text}</ListBucketResult>".encode()


def put(folder, key, size):
    """Puts random bytes into the store, in parts."""
    path = Path(folder, key.replace("/", "_"))
    sums = []
    with path.open("wb") as file:
        while (left := size - file.tell()) > 0:
            part = os.urandom(min(left, PART))
            sums.append(hashlib.md5(part).digest())
            file.write(part)
    etag = f'"{hashlib.md5(b"".join(sums)).hexdigest()}-{len(sums)}"'
    Store.objects[key] = (os.open(path, os.O_RDONLY), size, etag)


class Time(NamedTuple):
    """Seconds of a clock, and of all processors."""

    wall: float
    processor: float


def ended(process):
    """Waits for a process, and returns how it ended and its seconds of processor time."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, used.ru_utime + used.ru_stime


def timed(command, **variables):
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**USUAL, **KEYS, **variables})
    code, processor = ended(process)
    assert code == 0, f"{command} ended with {code}"
    return Time(time.perf_counter() - began, processor)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--aws", default="aws")
    parser.add_argument("--rclone", default="rclone")
    options = parser.parse_args()
    memory = tempfile.mkdtemp(dir="/dev/shm")
    into = Path(tempfile.mkdtemp(dir=options.folder))
    total = options.megabytes * 10**6
    put(memory, "empty/model.safetensors", 1)
    put(memory, "1/model.safetensors", total)
    for number in range(1, 5):
        put(memory, f"4/model-{number:05}-of-00004.safetensors", total // 4)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"

    def rclone(name):
        flags = ["--config", "/dev/null", "--s3-provider", "Other", "--s3-endpoint", endpoint, "--s3-no-check-bucket", "--s3-env-auth"]
        # By default it takes one stream up to 250 MB, and four beyond.
        flags += ["--multi-thread-cutoff", "64M", "--multi-thread-streams", "8"]
        return timed([options.rclone, "copy", *flags, f":s3:models/{name}", into])

    def aws(transfer):
        def run(name):
            config = into / "config"
            config.write_text(f"[default]\ns3 =\n  preferred_transfer_client = {transfer}\n")
            command = [options.aws, "s3", "cp", "--recursive", "--only-show-errors", "--endpoint-url", endpoint]
            return timed([*command, f"s3://models/{name}", into], AWS_CONFIG_FILE=str(config))

        return run

    def curl(name):
        command = ["curl", "--no-progress-meter", "--fail", "--parallel", "--parallel-immediate"]
        for key, (_, size, _) in Store.objects.items():
            for first in range(0, size if key.startswith(f"{name}/") else 0, step := max(1, -(-size // 8))):
                command += ["--range", f"{first}-{min(first + step, size) - 1}", "--output", "/dev/null", f"{endpoint}/models/{key}"]
        return timed(command)

    def weightsd(name, checksums=True):
        home = into / "home"
        home.mkdir(mode=0o700)
        (home / "config.toml").write_text("" if checksums else "[source.s3]\nchecksums = false\n")
        variables = {"HOME": str(home), "WEIGHTSD_CONFIG": str(home / "config.toml"), "WEIGHTSD_LOG": "warn"}
        variables["WEIGHTSD_SOCKET"] = str(home / "socket")
        variables["AWS_ENDPOINT_URL"] = endpoint
        command = [options.program, "serve", "--own-cache", home / "own", "--hub-cache", home / "hub", "--free-space", "0B"]
        daemon = subprocess.Popen(command, env={**USUAL, **KEYS, **variables})
        try:
            while subprocess.run([options.program, "status"], env={**USUAL, **variables}, capture_output=True).returncode:
                time.sleep(0.01)
            pulled = timed([options.program, "pull", f"s3://models/{name}"], **variables)
        finally:
            daemon.kill()
            _, processor = ended(daemon)
        return Time(pulled.wall, pulled.processor + processor)

    def disk(name):
        piece, began, used = bytes(1 << 20), time.perf_counter(), time.process_time()
        for key, (_, size, _) in Store.objects.items():
            if key.startswith(f"{name}/"):
                with (into / Path(key).name).open("wb", buffering=0) as file:
                    for _ in range(size >> 20):
                        file.write(piece)
        return Time(time.perf_counter() - began, time.process_time() - used)

    ways = {"rclone copy": rclone, "aws s3 cp": aws("classic"), "aws s3 cp, CRT": aws("crt"), "weightsd pull, verified": weightsd}
    ways["weightsd pull, SHA-256 in the place of MD5"] = lambda name: weightsd(name, checksums=False)
    ways |= {"the store: curl to /dev/null": curl, "the disk: write and nothing else": disk}

    def fresh(way, name):
        shutil.rmtree(into)
        into.mkdir()
        subprocess.run(["sync"], check=True)
        return way(name)

    times = {}
    for files in ("1", "4"):
        for number in range(options.rounds):
            names = list(ways)
            for way in names[number % len(names) :] + names[: number % len(names)]:
                start, all_ = fresh(ways[way], "empty"), fresh(ways[way], files)
                times.setdefault((files, way), []).append(Time(*(one - other for one, other in zip(all_, start))))
    print(f"| files | way | seconds (p50 of {options.rounds}) | MB/s | ratio to the best client | processor seconds |")
    print("|---|---|---|---|---|---|")
    middle = {key: Time(*map(statistics.median, zip(*found))) for key, found in times.items()}
    for (files, way), time_ in middle.items():
        best = min(middle[files, other].wall for other in list(ways)[:3])
        rate, ratio = total / 1e6 / time_.wall, best / time_.wall
        print(f"| {files} | {way} | {time_.wall:.2f} | {rate:.0f} | {ratio:.2f} | {time_.processor:.2f} |")
    shutil.rmtree(memory)
    shutil.rmtree(into)


main()

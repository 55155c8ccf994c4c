"""The service managers' files, bare and as `weightsd install --dry-run` fills them in."""

import os
import plistlib
import re
import shlex
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def dry_run(program: Path, platform: str, home: Path) -> dict[str, str]:
    """The files that would be written: each comes after a line that holds only its path."""
    output = subprocess.run(
        [program, "install", "--dry-run", "--platform", platform],
        env={"HOME": str(home), "PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    output = output.split("\nnow run:\n")[0]  # The commands come after the files.
    parts = re.split(r"^\W*?(/\S*/(\S+\.(?:plist|socket|service)))\W*$\n", output, flags=re.MULTILINE)
    files = {}
    for path, name, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        assert path.startswith(f"{home}/"), "the agent and the units belong to the user"
        for placeholder in ("@PROGRAM@", "@SOCKET@", "@LOG@"):
            assert placeholder not in text
        files[name] = text
    return files


def unit(text: str) -> ConfigParser:
    parser = ConfigParser(interpolation=None, delimiters=("=",))
    parser.optionxform = str
    parser.read_string(text)
    return parser


@pytest.mark.parametrize(
    ("file", "placeholders"),
    [
        ("launchd/dev.weightsd.plist", {"@PROGRAM@", "@SOCKET@", "@LOG@"}),
        ("systemd/weightsd.service", {"@PROGRAM@"}),
        ("systemd/weightsd.socket", set()),
    ],
)
def test_templates(file: str, placeholders: set[str]):
    text = (ROOT / file).read_text()
    assert {p for p in ("@PROGRAM@", "@SOCKET@", "@LOG@") if p in text} == placeholders
    # The log is named twice: the daemon writes to it, and launchd what is said before.
    assert all(text.count(p) == (2 if p == "@LOG@" else 1) for p in placeholders)


def test_launchd(program: Path, tmp_path: Path):
    text = dry_run(program, "macos", tmp_path)["dev.weightsd.plist"]
    plist = plistlib.loads(text[: text.index("</plist>") + len("</plist>")].encode())
    assert plist["Label"] == "dev.weightsd"
    assert os.path.isabs(plist["ProgramArguments"][0])
    assert plist["ProgramArguments"][1:] == ["serve", "--activated", "--log-file", plist["StandardErrorPath"]]
    listener = plist["Sockets"]["Listener"]
    assert listener["SockPathMode"] == 0o600
    assert os.path.isabs(listener["SockPathName"])
    assert len(os.fsencode(listener["SockPathName"])) <= 103
    assert os.path.isabs(plist["StandardErrorPath"])


def test_systemd(program: Path, tmp_path: Path):
    files = dry_run(program, "linux", tmp_path)
    assert files.keys() == {"weightsd.socket", "weightsd.service"}
    command = shlex.split(unit(files["weightsd.service"])["Service"]["ExecStart"])
    assert os.path.isabs(command[0])
    assert command[1:] == ["serve", "--activated"]
    listener = unit(files["weightsd.socket"])["Socket"]
    assert (listener["ListenStream"], listener["SocketMode"]) == ("%t/weightsd/weightsd.sock", "0600")

    if analyze := shutil.which("systemd-analyze"):
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        verified = subprocess.run(
            [analyze, "verify", "--user", "--man=no", *(tmp_path / name for name in files)],
            env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert (verified.returncode, verified.stderr) == (0, "")

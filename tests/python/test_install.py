"""What launchd gets, read by Python's plistlib, which knows nothing of the template."""

import os
import plistlib
import subprocess
from pathlib import Path

from daemon import PROGRAM


def test_the_agent_of_launchd_is_a_property_list():
    home = Path("/Users/a & b")  # Nothing is written; a folder of pytest is too long for a socket.
    command = [PROGRAM, "install", "--dry-run", "--platform", "macos"]
    shown = subprocess.run(command, env={"HOME": str(home)}, check=True, capture_output=True).stdout
    start, end = shown.index(b"<?xml"), shown.index(b"</plist>") + len(b"</plist>")
    agent = plistlib.loads(shown[start:end], fmt=plistlib.FMT_XML)
    log = str(home / "Library/Logs/weightsd.log")
    assert agent["Label"] == "dev.weightsd"
    program, *arguments = agent["ProgramArguments"]
    assert os.path.samefile(program, PROGRAM)
    assert arguments == ["serve", "--activated", "--log-file", log]
    listener = agent["Sockets"]["Listener"]
    assert listener["SockPathName"] == str(home / "Library/Application Support/weightsd/weightsd.sock")
    assert listener["SockPathMode"] == 0o600
    assert agent["Umask"] == 0o077
    assert agent["LimitLoadToSessionType"] == ["Aqua", "Background"]
    assert agent["StandardErrorPath"] == log
    # launchd asks for this one as a number. Without it a job is killed after 20 seconds.
    assert type(agent["ExitTimeOut"]) is int and agent["ExitTimeOut"] > 20

"""Becomes a container's program: `unshare --mount ... python contain.py SPEC`, where SPEC is JSON. Needs root.

A container runtime does the same with more care. Here it serves to run the pods of the manifests where there is none: the
container's own file system, read-only, with the pod's volumes in it; the user, the groups and the capabilities that the
manifest names; and no way to get more of them.
"""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38
CAPABILITIES = {"CHOWN": 0, "FOWNER": 3}
LAST_CAPABILITY = int(Path("/proc/sys/kernel/cap_last_cap").read_text())


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def main() -> None:
    spec = json.loads(sys.argv[1])
    root = spec["root"]
    for volume in spec["volumes"]:
        os.makedirs(root + volume["target"], exist_ok=True)
    os.makedirs(f"{root}/proc", exist_ok=True)
    mount("--make-rprivate", "/")
    mount("--bind", root, root)
    if spec["read_only"]:
        mount("-o", "remount,bind,ro", root)
    for volume in spec["volumes"]:
        target = root + volume["target"]
        mount("--bind", volume["source"], target)
        if volume["read_only"]:
            mount("-o", "remount,bind,ro", target)
    mount("-t", "proc", "proc", f"{root}/proc")

    os.chroot(root)
    os.chdir("/")
    for number in range(LAST_CAPABILITY + 1):
        if number not in [CAPABILITIES[name] for name in spec["capabilities"]]:
            prctl(PR_CAPBSET_DROP, number)
    os.setgroups(spec["groups"])
    os.setgid(spec["group"])
    os.setuid(spec["user"])
    if spec["no_new_privileges"]:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
    os.umask(0o022)
    os.execvpe(spec["command"][0], spec["command"], spec["environment"])


main()

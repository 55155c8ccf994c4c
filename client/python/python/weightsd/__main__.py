"""`python -m weightsd run script.py`: a program that is not changed takes its weights through the daemon."""

from __future__ import annotations

import argparse
import os
import runpy
import sys

from . import __version__
from ._patch import patch


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m weightsd", description="Model weights that all processes of a machine share."
    )
    parser.add_argument("--version", action="version", version=f"weightsd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run",
        help="run a Python program whose weights come through the daemon",
        usage="python -m weightsd run [-m] PROGRAM [ARGUMENT ...]",
    )
    run.add_argument("-m", dest="module", action="store_true", help="PROGRAM is a module, not a file")
    run.add_argument("program", metavar="PROGRAM")
    run.add_argument("arguments", metavar="ARGUMENT", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    patch()
    sys.argv = [asked.program, *asked.arguments]
    if asked.module:
        sys.path[0] = os.getcwd()
        runpy.run_module(asked.program, run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(asked.program))
        runpy.run_path(asked.program, run_name="__main__")


if __name__ == "__main__":
    main()

"""Every example of the README, run as it stands with a made-up model in the place of the published one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Daemon

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)


def test_the_readme_has_examples() -> None:
    assert len(EXAMPLES) >= 6


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs(daemon: Daemon, z_image: Path, number: int) -> None:
    pytest.importorskip("torch")
    code = EXAMPLES[number].replace("Tongyi-MAI/Z-Image-Turbo", str(z_image))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=300, env=os.environ
    )
    assert done.returncode == 0 and done.stdout and not done.stderr, done.stdout + done.stderr

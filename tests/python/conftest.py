"""Generates the stubs from the .proto files, as any Python client would, and keeps one daemon for the whole run."""

import atexit
import shutil
import sys
import tempfile
from pathlib import Path

import grpc_tools
import pytest
from grpc_tools import protoc

PROTO = Path(__file__).parents[2] / "proto"


def generate_stubs() -> None:
    out = tempfile.mkdtemp(prefix="weightsd-stubs-")
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    includes = [f"-I{PROTO}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]
    files = [str(file) for file in sorted(PROTO.glob("weights/v1/*.proto"))]
    code = protoc.main(["protoc", *includes, f"--python_out={out}", f"--grpc_python_out={out}", *files])
    assert code == 0, "protoc failed"
    sys.path.insert(0, out)


generate_stubs()  # Before any test file is imported.

# What they compare is told as if a test compared it.
pytest.register_assert_rewrite("judged", "lent")

from checkpoints import write_directory, write_hub_cache  # noqa: E402
from daemon import PROGRAM, Daemon  # noqa: E402
from derive_inputs import small  # noqa: E402
from layouts import Tensors, read_component  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def program() -> Path:
    assert PROGRAM.is_file(), f"{PROGRAM} is missing: cargo build --release, or set WEIGHTSD_BIN"
    return PROGRAM


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A small Z-Image model as a directory. Nobody changes it."""
    return write_directory(tmp_path_factory.mktemp("model") / "z-image").resolve()


@pytest.fixture(scope="session")
def hub(tmp_path_factory, model) -> tuple[Path, str]:
    """A Hugging Face cache that holds the model as `org/z-image`, and its commit. Nobody changes it."""
    cache = tmp_path_factory.mktemp("hub").resolve()
    return cache, write_hub_cache(cache, "org/z-image", model, refs=("main", "v1"))


@pytest.fixture(scope="session")
def daemon(hub):
    with Daemon(hub_cache=hub[0]) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def family(tmp_path_factory) -> Path:
    """A Z-Image model with layers of every group size. Nobody changes it."""
    return small(tmp_path_factory.mktemp("small") / "model")


@pytest.fixture(scope="session")
def transformer(family) -> Tensors:
    return read_component(family / "transformer")

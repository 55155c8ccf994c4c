"""Models that mflux saved, judged by numbers: what is lent in layout MLX is what was saved, and what is lent in layout
SOURCE is what was published. `tests/stories/bare.rs` has the true sizes."""

import grpc
import numpy as np
import pytest
from checkpoints import write_directory
from daemon import error_detail
from derive_judge import BF16, cast, in_mlx
from layouts import read_component
from lent import check, lent
from mflux import saved, write
from weights.v1 import component_pb2, error_pb2, model_pb2

MLX, SOURCE = component_pb2.LAYOUT_MLX, component_pb2.LAYOUT_SOURCE
COMPONENTS = ("transformer", "text_encoder", "vae")


@pytest.fixture
def models(tmp_path):
    """A published model in BF16, the same one as mflux saved it, and its tensors."""
    published = write_directory(tmp_path / "published")
    tensors = {
        component: {name: cast(values, BF16) for name, values in read_component(published / component).items()}
        for component in COMPONENTS
    }
    of = {component: saved(component, tensors[component]) for component in COMPONENTS}
    return published, write(tmp_path / "mflux", of, 20_000), tensors


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("layout", [MLX, SOURCE], ids=["mlx", "source"])
def test_a_base_makes_it_the_published_model(daemon, models, component, layout):
    published, folder, tensors = models
    assert len(list((folder / component).glob("[0-9]*.safetensors"))) > 1
    base = model_pb2.ModelSelector(spec=str(published))
    loaded = daemon.load(str(folder), component, base=base, layout=layout)
    expected = in_mlx(component, tensors[component]) if layout == MLX else tensors[component]
    check(lent(loaded), expected)
    assert loaded.component.family == "z-image"


def test_shards_that_its_index_does_not_list_are_no_part_of_it(daemon, models):
    published, folder, tensors = models
    stray = {"stray.weight": np.zeros((2, 2), np.float32)}
    write(folder / "elsewhere", {"x": stray}, 1000)
    (folder / "elsewhere/x/0.safetensors").rename(folder / "vae/stray.safetensors")
    base = model_pb2.ModelSelector(spec=str(published))
    check(lent(daemon.load(str(folder), "vae", base=base)), in_mlx("vae", tensors["vae"]))


def test_a_component_that_it_does_not_have_is_refused_with_those_it_has(daemon, models):
    published, folder, _ = models
    with pytest.raises(grpc.RpcError) as refused:
        daemon.load(str(folder), "unet", base=model_pb2.ModelSelector(spec=str(published)))
    assert error_detail(refused.value).reason == error_pb2.ERROR_REASON_COMPONENT_NOT_FOUND
    assert all(component in refused.value.details() for component in COMPONENTS)

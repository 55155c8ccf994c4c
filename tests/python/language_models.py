"""Small language models of many architectures, as transformers and mlx-lm make and save them: their classes say which tensors
a config asks for."""

import importlib
import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # Nothing here is on the hub; transformers would ask.

import mlx.nn as nn  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from derive_inputs import save  # noqa: E402
from layouts import Tensors  # noqa: E402
from lent import numpy  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, logging  # noqa: E402

logging.set_verbosity_error()
logging.disable_progress_bar()

# No two sizes are equal, so that no size stands for another one.
SIZES = {
    "hidden_size": 96, "intermediate_size": 160, "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 77,
    "num_hidden_layers": 3, "head_dim": 16, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 48}
LATENT = {
    "kv_lora_rank": 24, "q_lora_rank": 40, "qk_rope_head_dim": 8, "qk_nope_head_dim": 12, "v_head_dim": 20,
    "n_routed_experts": 5, "n_shared_experts": 3, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip
DENSE = [
    "llama", "mistral", "ministral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "vaultgemma", "granite", "smollm3",
    "helium", "seed_oss", "arcee", "ernie4_5", "hunyuan_v1_dense", "phi3", "glm", "glm4", "cohere", "cohere2", "olmo",
    "olmo2", "olmo3", "exaone4", "stablelm", "starcoder2", "nemotron", "phi", "gpt2",
]  # fmt: skip
SPARSE = {
    "mixtral": EXPERTS | {"num_local_experts": 5},
    "qwen2_moe": EXPERTS | {"num_experts": 5, "shared_expert_intermediate_size": 56, "decoder_sparse_step": 2},
    "qwen3_moe": EXPERTS | {"num_experts": 5, "mlp_only_layers": [1]},
    "olmoe": EXPERTS | {"num_experts": 5},
    "gpt_oss": EXPERTS | {"num_local_experts": 5},
    "deepseek_v2": EXPERTS | LATENT,
    "deepseek_v3": EXPERTS | LATENT,
    "glm4_moe": EXPERTS | {"n_routed_experts": 5, "n_shared_experts": 3, "first_k_dense_replace": 2, "n_group": 1, "topk_group": 1},
    "granitemoe": EXPERTS | {"num_local_experts": 5},
    "phimoe": EXPERTS | {"num_local_experts": 5},
    "ernie4_5_moe": EXPERTS | {"moe_num_experts": 5, "moe_num_shared_experts": 3},
    "hunyuan_v1_moe": {"num_experts": 5},
    "qwen3_next": EXPERTS | {
        "num_experts": 5, "shared_expert_intermediate_size": 56, "linear_key_head_dim": 12, "linear_value_head_dim": 20,
        "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "layer_types": ["linear_attention", "linear_attention", "full_attention"],
    },
    "dots1": EXPERTS | {"n_routed_experts": 5, "n_shared_experts": 3, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},
}  # fmt: skip
ARCHITECTURES = [*DENSE, *SPARSE]

SWITCHES = ["attention_bias", "mlp_bias", "use_bias", "qkv_bias", "use_qkv_bias", "attention_out_bias", "use_qk_norm", "lm_head_bias"]
VARIANTS = {
    "usual": {},
    "on": dict.fromkeys(SWITCHES, True),
    "off": dict.fromkeys(SWITCHES, False),
    "tied": {"tie_word_embeddings": True},
    "untied": {"tie_word_embeddings": False},
    "other_heads": {"head_dim": 24},
    "no_shared_experts": {"moe_num_shared_experts": 0, "moe_layer_start_index": 0, "moe_layer_end_index": 1},
    "no_query_rank": {"q_lora_rank": None, "use_parallel_residual": True},
}


def config(model_type: str, variant: str = "usual"):
    """A config, with those switches that its class has."""
    known = CONFIG_MAPPING[model_type]()
    asked = {key: value for key, value in VARIANTS[variant].items() if hasattr(known, key)}
    return CONFIG_MAPPING[model_type](**(SIZES | SPARSE.get(model_type, {}) | asked))


def variants(model_type: str) -> list[str]:
    """Those that change something."""
    known = CONFIG_MAPPING[model_type]()
    return [name for name, keys in VARIANTS.items() if not keys or any(hasattr(known, key) for key in keys)]


def saved(folder: Path, model_type: str, variant: str) -> Path:
    """A model as `save_pretrained` saves it."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config(model_type, variant)).save_pretrained(str(folder))
    return folder.resolve()


def listed(folder: Path, model_type: str, variant: str) -> Path:
    """Zeros for every tensor that the model has in memory, by its parameters on the meta device."""
    settings = config(model_type, variant)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(str(folder))
    tensors = {name: np.zeros(tuple(values.shape), np.float16) for name, values in model.state_dict().items()}
    save(tensors, folder / "model.safetensors")
    return folder.resolve()


# What mlx-lm's classes want that configs of transformers 5 have elsewhere or otherwise.
USUAL = {"rope_theta": 10000.0, "partial_rotary_factor": 0.5, "rope_scaling": None, "num_experts": 5}
OTHERWISE = {
    "deepseek_v2": {"rope_scaling": {"factor": 1.0, "mscale_all_dim": 0.0, "type": "yarn"}},
    "exaone4": {"sliding_window_pattern": "LLG"},
    "qwen2_moe": {"decoder_sparse_step": 1},  # All of its blocks have experts.
    "gpt2": {"n_ctx": 64},
    "phimoe": {"attention_bias": True, "lm_head_bias": True},  # It has no others.
    "qwen3_next": {"full_attention_interval": 3},
    "olmo3": {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"]},
}


def of_mlx_lm(folder: Path, model_type: str, bits: int | None = None) -> Path:
    """A model as mlx-lm saves it, of the config that transformers writes."""
    settings = USUAL | config(model_type).to_dict() | OTHERWISE.get(model_type, {}) | {"architectures": None}
    module = importlib.import_module(f"mlx_lm.models.{model_type}")
    model = module.Model(module.ModelArgs.from_dict(settings))
    if bits:
        predicate = getattr(model, "quant_predicate", lambda *_: True)

        def chosen(path, layer):
            return hasattr(layer, "to_quantized") and layer.weight.shape[-1] % 32 == 0 and bool(predicate(path, layer))

        nn.quantize(model, group_size=32, bits=bits, class_predicate=chosen)
        settings["quantization"] = {"group_size": 32, "bits": bits}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(settings, default=str))
    tensors: Tensors = {name: numpy(values) for name, values in tree_flatten(model.parameters())}
    if settings["tie_word_embeddings"]:  # One class makes a head all the same, and gives it up when weights are loaded.
        tensors = {name: values for name, values in tensors.items() if not name.startswith("lm_head.")}
    save(tensors, folder / "model.safetensors")
    return folder.resolve()



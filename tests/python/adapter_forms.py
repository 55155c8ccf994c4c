"""Adapters as the world spells them, each with the weights that it makes or the words of its refusal.

What is right follows from the programs that own each form: PEFT (`alpha / r`, `re.match` of patterns, `modules_to_save`),
diffusers (`lora_adapter_metadata`), mlx-lm (`scale`), LyCORIS (differences, norms) and ComfyUI (`diff`, `diff_b`)."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from derive_inputs import normal, save
from derive_judge import Delta, changed
from layouts import Tensors
from lent import array

Q, K, V, OUT = (f"layers.0.attention.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0"))
W1 = "layers.0.feed_forward.w1"
DIFFUSERS = "lora_adapter_metadata"


@dataclass
class Form:
    """Files of one folder. The first is the adapter; what becomes of it."""

    files: dict[str, Tensors]
    # Weights by layer: what is added to each, in order.
    added: dict[str, list[Delta]] = field(default_factory=dict)
    # Whole tensors by name.
    whole: Tensors = field(default_factory=dict)
    config: dict | None = None
    metadata: dict[str, str] | None = None
    # Who says the strength, and which: (source, number), in the report's order.
    strengths: list[tuple[str, float]] | None = None
    # Words of the refusal; empty where it is applied.
    refused: list[str] = field(default_factory=list)
    # Words of the remarks.
    remarks: list[str] = field(default_factory=list)
    # Whether the folder is given, and not the file.
    by_folder: bool = False

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        for name, tensors in self.files.items():
            save(tensors, folder / name, self.metadata)
        if self.config is not None:
            (folder / "adapter_config.json").write_text(json.dumps(self.config))
        return folder if self.by_folder else folder / next(iter(self.files))

    def expected(self, weights: Tensors) -> Tensors:
        out = {name: values.astype(np.float32) for name, values in weights.items()}
        for name, deltas in self.added.items():
            name = name if name in out else f"{name}.weight"
            out[name] = changed(weights[name], deltas)
        return out | self.whole


def ones(*values: float, dtype: np.dtype = np.float32) -> np.ndarray:
    return np.array(values, dtype)


class Forms:
    """All forms for a Z-Image transformer with these weights."""

    def __init__(self, weights: Tensors):
        self.weights, self.seed = weights, 5000

    def matrix(self, *shape: int) -> np.ndarray:
        self.seed += 1
        return (normal(self.seed, shape) / 8).astype(np.float32)

    def pair(self, layer: str, rank: int = 4) -> tuple[np.ndarray, np.ndarray]:
        """Down and up."""
        rows, columns = self.weights[f"{layer}.weight"].shape
        return self.matrix(rank, columns), self.matrix(rows, rank)

    def delta(self, down: np.ndarray, up: np.ndarray, alpha: float = 1.0, divisor: float = 1.0) -> list[Delta]:
        return [Delta(array(up) @ array(down), 1.0, alpha, divisor)]

    def spelt(
        self, down_key: str, up_key: str, alpha: dict[str, np.ndarray] | None = None, strength=(1.0, 1.0), layer=Q, **more
    ) -> Form:
        """A pair under these keys."""
        down, up = self.pair(layer)
        tensors = {down_key: down, up_key: up} | (alpha or {})
        return Form({"style.safetensors": tensors}, {layer: self.delta(down, up, *strength)}, **more)

    def simple(self, base: str = f"transformer.{Q}", strength=(1.0, 1.0), layer: str = Q, **more) -> Form:
        return self.spelt(f"{base}.lora_A.weight", f"{base}.lora_B.weight", None, strength, layer, **more)

    def told(self, metadata: dict, strength: tuple[float, float], base: str = f"transformer.{Q}", **more) -> Form:
        """A strength in the metadata."""
        text = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
        return self.simple(base, strength, metadata=text, **more)

    def spellings(self) -> dict[str, Form]:
        """Pairs and alphas whose names differ in spelling only. Alpha is 2 and the rank 4."""
        half, alpha = (2.0, 4.0), ones(2)
        forms = {}
        bases = {
            "plain": Q, "transformer": f"transformer.{Q}", "diffusion_model": f"diffusion_model.{Q}",
            "all_in_one": f"model.diffusion_model.{Q}", "peft": f"base_model.model.{Q}",
            "peft_transformer": f"base_model.model.transformer.{Q}", "kohya": f"lora_unet_{Q.replace('.', '_')}",
            "kohya_twice": f"lora_unet__{Q.replace('.', '_')}", "lycoris": f"lycoris_{Q.replace('.', '_')}",
            "dots": Q.replace("_", "."), "blocks": "transformer_blocks.0.attn.to_q",
        }  # fmt: skip
        markers = {
            "AB": ("lora_A.weight", "lora_B.weight"), "downup": ("lora_down.weight", "lora_up.weight"),
            "dotted": ("lora.down.weight", "lora.up.weight"), "default": ("lora_A.default.weight", "lora_B.default.weight"),
            "bare": ("lora_A", "lora_B"),
        }  # fmt: skip
        others = list(bases.values())
        for number, (name, base) in enumerate(bases.items()):
            for marker, (down, up) in markers.items():
                other = others[(number + len(marker)) % len(others)]
                keys = (f"{base}.{down}", f"{base}.{up}")
                forms[f"{name}-{marker}"] = self.spelt(*keys, {f"{other}.alpha": alpha}, half)
        mixed = {f"transformer.{Q}.alpha": alpha}
        forms["pair-apart"] = self.spelt(f"{Q}.lora_down.weight", f"diffusion_model.{Q}.lora_up.weight", mixed, half)
        keys = (f"{Q}.lora_A.weight", f"{Q}.lora_B.weight")
        for name, value in {
            "scalar": ones(2).reshape(()), "vector": ones(2), "matrix": ones(2).reshape(1, 1),
            "f16": ones(2, dtype=np.float16), "f64": ones(2, dtype=np.float64), "i64": ones(2, dtype=np.int64),
        }.items():  # fmt: skip
            forms[f"alpha-{name}"] = self.spelt(*keys, {f"{Q}.alpha": value}, half, strengths=[("ALPHA_TENSOR", 0.5)])
        forms["alpha-twice-equal"] = self.spelt(*keys, {f"{Q}.alpha": alpha, f"transformer.{Q}.alpha": alpha}, half)
        forms["alpha-negative"] = self.spelt(*keys, {f"{Q}.alpha": ones(-2)}, (-2.0, 4.0))
        for name, more, words in (
            ("zero", {f"{Q}.alpha": ones(0)}, [f"{Q}.alpha", "is 0", "kohya"]),
            ("nan", {f"{Q}.alpha": ones(np.nan)}, [f"{Q}.alpha", "NaN", "finite"]),
            ("inf", {f"{Q}.alpha": ones(np.inf)}, [f"{Q}.alpha", "inf", "finite"]),
            ("wide", {f"{Q}.alpha": ones(2, 2)}, [f"{Q}.alpha", "one element"]),
            ("two", {f"{Q}.alpha": ones(2), f"transformer.{Q}.alpha": ones(4)}, ["says 0.5", "says 1"]),
            ("of-no-matrices", {f"{K}.alpha": ones(2)}, ["without its partner", f"{K}.alpha"]),
            ("lora_alpha", {f"{Q}.lora_alpha": ones(2)}, ["no known form", f"{Q}.lora_alpha"]),
            ("network_alpha", {f"{Q}.network_alpha": ones(2)}, ["no known form", f"{Q}.network_alpha"]),
        ):
            forms[f"alpha-{name}"] = self.spelt(*keys, more, refused=words)
        return forms

    def configs(self) -> dict[str, Form]:
        """Strengths in `adapter_config.json`."""
        peft = {"peft_type": "LORA", "r": 4, "lora_alpha": 16}
        base = f"base_model.model.{Q}"

        def of(config: dict, strength=(1.0, 1.0), file="adapter_model.safetensors", **more) -> Form:
            form = self.simple(base, strength, config=config, **more)
            return Form(**(vars(form) | {"files": {file: form.files["style.safetensors"]}}))

        forms = {
            "plain": of(peft, (16, 4), strengths=[("CONFIG", 4)]),
            "rslora": of(peft | {"use_rslora": True}, (16, 2)),
            "alpha-by-name": of(peft | {"alpha_pattern": {"to_q": 2}}, (2, 4)),
            "alpha-by-expression": of(peft | {"alpha_pattern": {r"layers\.\d+\.attention\.to_[qk]": 2}}, (2, 4)),
            "alpha-by-anchor": of(peft | {"alpha_pattern": {r"^layers\.0\..*": 2}}, (2, 4)),
            "alpha-of-another": of(peft | {"alpha_pattern": {r"layers\.[1-9]\..*": 2, "o_q": 3}}, (16, 4)),
            "alpha-first-wins": of(peft | {"alpha_pattern": {"attention.to_q": 8, r".*to_q": 2}}, (8, 4)),
            "alpha-zero": of(peft | {"lora_alpha": 0}, (0, 4)),
            "rank-by-expression": of(peft | {"r": 8, "rank_pattern": {r".*\.to_q": 4}}, (16, 4)),
            "only-file": of(peft, (16, 4), "whatever.safetensors"),
            "bias-none-found": of(peft | {"bias": "all"}, (16, 4)),
            "init-gaussian": of(peft | {"init_lora_weights": "gaussian"}, (16, 4)),
            "mlx": of({"fine_tune_type": "lora", "num_layers": 4, "lora_parameters": {"rank": 4, "scale": 3.0}}, (3, 1)),
            "mlx-old": of({"lora_layers": 4, "lora_parameters": {"rank": 4, "scale": 3.0, "alpha": 4}}, (3, 1)),
        }
        for name, config, words in (
            ("rank", peft | {"r": 8}, ["rank 8", "rank 4"]),
            ("look-around", peft | {"alpha_pattern": {"(?!a)to_q": 1}}, ["(?!a)to_q"]),
            ("dora", peft | {"use_dora": True}, ["use_dora", "no magnitudes"]),
            ("pissa", peft | {"init_lora_weights": "pissa_niter_4"}, ["init_lora_weights", "before training"]),
            ("olora", peft | {"init_lora_weights": "olora"}, ["init_lora_weights"]),
            ("replication", peft | {"layer_replication": [[0, 1], [0, 1]]}, ["layer_replication", "stacked"]),
            ("parameters", peft | {"target_parameters": ["experts.up"]}, ["target_parameters"]),
            ("alora", peft | {"alora_invocation_tokens": [1, 2]}, ["alora_invocation_tokens", "aLoRA"]),
            ("qalora", peft | {"use_qalora": True}, ["use_qalora"]),
            ("bias", peft | {"lora_bias": True}, ["lora_bias"]),
            ("tokens", peft | {"trainable_token_indices": [1]}, ["trainable_token_indices"]),
            ("transposed", peft | {"fan_in_fan_out": True}, ["fan_in_fan_out"]),
            ("tied", peft | {"ensure_weight_tying": True}, ["ensure_weight_tying"]),
            ("unknown", peft | {"use_novelty": 0.5}, ["use_novelty", "not known"]),
            ("no-alpha", {"peft_type": "LORA", "r": 4}, ["lora_alpha"]),
            ("saved", peft | {"modules_to_save": ["cap_embedder.1"]}, ["cap_embedder.1", "the file does not"]),
            ("mlx-rank", {"lora_parameters": {"rank": 8, "scale": 3.0}}, ["rank 8"]),
            ("mlx-alpha", {"lora_parameters": {"rank": 4, "scale": 3.0, "alpha": 8}}, ["alpha", "versions of mlx-lm"]),
            ("mlx-alpha-only", {"lora_parameters": {"rank": 4, "alpha": 8}}, ["scale"]),
            ("method", {"peft_type": "LOKR", "r": 4, "alpha": 8}, ["`peft_type` is `LOKR`", "LORA"]),
            ("two-alphas", peft | {"alpha": 8}, ["`alpha` is 8", "`lora_alpha` is 16"]),
            ("rslora-alone", {"r": 4, "use_rslora": True}, ["use_rslora"]),
            ("mlx-full", {"fine_tune_type": "full"}, ["`full`", "low-rank"]),
            ("mlx-old-dora", {"lora_parameters": {"rank": 4, "scale": 3.0}, "use_dora": True}, ["use_dora", "no magnitudes"]),
            ("mlx-rslora", {"lora_parameters": {"rank": 4, "scale": 3.0}, "use_rslora": True}, ["PEFT and mlx-lm"]),
            ("mlx-dora", {"fine_tune_type": "dora", "lora_parameters": {"rank": 4, "scale": 1.0}}, ["`dora`", "no magnitudes"]),
            *((method, {"peft_type": method}, [method, "LORA, LOKR or LOHA"])
              for method in ("IA3", "OFT", "BOFT", "VERA", "ADALORA", "PREFIX_TUNING", "LN_TUNING", "NEXT_YEARS")),
        ):  # fmt: skip
            forms[f"refused-{name}"] = of(config, refused=[*words, "adapter_config.json"])
        own = {f"{Q}.alpha": ones(2)}
        forms["agrees-with-alpha"] = of(peft | {"lora_alpha": 2}, (2, 4), strengths=[("ALPHA_TENSOR", 0.5)])
        forms["agrees-with-alpha"].files["adapter_model.safetensors"] |= own
        forms["contradicts-alpha"] = of(peft, refused=["says 0.5", "says 4"])
        forms["contradicts-alpha"].files["adapter_model.safetensors"] |= own
        others = {"adapter_model.safetensors": {f"{base}.lora_A.weight": self.matrix(1, 1)}}
        forms["of-another-file"] = self.simple(
            config=peft, strengths=[("NOTHING", 1)], remarks=["adapter_config.json", "another file"]
        )
        forms["of-another-file"].files |= others
        forms["of-another-file-and-damaged"] = self.simple(config={"r": "four"}, strengths=[("NOTHING", 1)])
        forms["of-another-file-and-damaged"].files |= others
        return forms

    def metadatas(self) -> dict[str, Form]:
        """Strengths in the file's own metadata."""
        of = {"transformer.r": 4, "transformer.lora_alpha": 16}
        said = {"strengths": [("METADATA", 4)], "remarks": ["metadata"]}
        forms = {
            "diffusers": self.told({DIFFUSERS: of}, (16, 4), **said),
            "diffusers-rslora": self.told({DIFFUSERS: of | {"transformer.use_rslora": True}}, (16, 2)),
            "diffusers-pattern": self.told({DIFFUSERS: of | {"transformer.alpha_pattern": {Q: 2}}}, (2, 4)),
            "diffusers-anchor": self.told({DIFFUSERS: of | {"transformer.alpha_pattern": {f"^{Q}": 2}}}, (2, 4)),
            "diffusers-rank": self.told({DIFFUSERS: of | {"transformer.r": 8, "transformer.rank_pattern": {Q: 4}}}, (16, 4)),
            "diffusers-no-prefix": self.told({DIFFUSERS: {"r": 4, "lora_alpha": 16}}, (16, 4), **said),
            "diffusers-plain-keys": self.told({DIFFUSERS: of}, (16, 4), base=Q),
            "diffusers-kohya-keys": self.told(
                {DIFFUSERS: of | {"transformer.alpha_pattern": {Q: 2}}}, (2, 4), base=f"lora_unet_{Q.replace('.', '_')}"
            ),
            "diffusers-of-another": self.told(
                {DIFFUSERS: {"text_encoder.r": 4, "text_encoder.lora_alpha": 16, "text_encoder.use_dora": True}}, (1, 1)
            ),
            "diffusers-of-both": self.told({DIFFUSERS: of | {"text_encoder.lora_alpha": 2, "text_encoder.r": 2}}, (16, 4)),
            "flat": self.told({"lora_alpha": "16", "r": "4", "format": "pt"}, (16, 4), **said),
            "flat-no-rank": self.told({"lora_alpha": "16"}, (16, 4)),
            "flat-network": self.told({"network_alpha": "16.0", "network_dim": "4"}, (16, 4)),
            "flat-alpha": self.told({"alpha": "16", "rank": "4"}, (16, 4)),
            "flat-prefix": self.told({"transformer.lora_alpha": "16", "transformer.r": "4"}, (16, 4)),
            "both-equal": self.told({DIFFUSERS: of, "lora_alpha": "16"}, (16, 4)),
            "kohya-told": self.told(
                {"ss_network_alpha": "2", "ss_network_dim": "4"}, (1, 1), strengths=[("NOTHING", 1)],
                remarks=["ss_network_alpha 2", "no program"],
            ),
            "rank-alone": self.told({"r": "4", "rank": "any"}, (1, 1)),
            "flat-rslora": self.told({"lora_alpha": "16", "r": "4", "use_rslora": "True"}, (16, 2)),
            "flat-pattern": self.told({"lora_alpha": "16", "r": "4", "alpha_pattern": {"to_q": 2}}, (2, 4)),
            "flat-rank-pattern": self.told({"lora_alpha": "16", "r": "8", "rank_pattern": {"to_q": 4}}, (16, 4)),
            "flat-scale-of-one": self.told({"lora_scale": "1.0"}, (1, 1)),
            "peft-config": self.told({"peft_config": {"peft_type": "LORA", "r": 4, "lora_alpha": 16}}, (16, 4), **said),
        }  # fmt: skip
        for name, metadata, words in (
            ("flat-word", {"lora_alpha": "high"}, ["lora_alpha", "high"]),
            ("flat-nan", {"lora_alpha": "nan"}, ["lora_alpha", "number"]),
            ("flat-two", {"lora_alpha": "16", "network_alpha": "8"}, ["network_alpha", "lora_alpha"]),
            ("flat-rank", {"lora_alpha": "16", "r": "8"}, ["rank 8", "rank 4"]),
            ("json", {DIFFUSERS: "{"}, [DIFFUSERS, "cannot be read"]),
            ("dora", {DIFFUSERS: of | {"transformer.use_dora": True}}, ["use_dora", "no magnitudes"]),
            ("pissa", {DIFFUSERS: of | {"transformer.init_lora_weights": "pissa"}}, ["init_lora_weights"]),
            ("both", {DIFFUSERS: of, "lora_alpha": "8"}, ["says 4", "says 2"]),
            ("rank", {DIFFUSERS: of | {"transformer.r": 8}}, ["rank 8"]),
            ("flat-dora", {"lora_alpha": "16", "use_dora": "true"}, ["no magnitudes", "use_dora"]),
            ("flat-switch", {"lora_alpha": "16", "use_rslora": "perhaps"}, ["use_rslora", "true or false"]),
            ("scale", {"lora_scale": "0.5"}, ["lora_scale", "no program"]),
            ("spelt", {"loraAlpha": "16"}, ["loraAlpha", "no program"]),
            ("mlx-parameters", {"lora_parameters": {"rank": 4, "scale": 3.0}}, ["lora_parameters"]),
            ("nested", {"peft_config": {"default": {"r": 4, "lora_alpha": 16}}}, ["peft_config", "default"]),
        ):
            form = self.told(metadata, (1, 1))
            forms[f"refused-{name}"] = Form(form.files, metadata=form.metadata, refused=words)
        tensor = self.told({DIFFUSERS: of}, (1, 1), refused=["says 0.5", "says 4"])
        tensor.files["style.safetensors"][f"{Q}.alpha"] = ones(2)
        forms["refused-tensor"] = tensor
        # All programs go by alpha tensors.
        for name, metadata, words in (
            ("scale", {"lora_scale": "0.5"}, []),
            ("training", {"ss_network_alpha": "16", "ss_network_dim": "32"}, ["ss_network_alpha 16", "which counts"]),
        ):
            alpha = 2 if name == "scale" else 1
            form = self.told(metadata, (alpha, 4), strengths=[("ALPHA_TENSOR", alpha / 4)], remarks=words)
            form.files["style.safetensors"][f"{Q}.alpha"] = ones(alpha)
            forms[f"beside-tensor-{name}"] = form
        return forms

    def wholes(self) -> dict[str, Form]:
        """Differences and whole weights of anything."""
        base = "diffusion_model.layers.0"
        shape = {name: values.shape for name, values in self.weights.items()}
        norm, query = shape["layers.0.attention_norm1.weight"], shape["layers.0.attention.norm_q.weight"]
        bias = shape["all_x_embedder.2-1.bias"]
        pair = self.simple()
        tensors = pair.files["style.safetensors"]

        def full(key: str, name: str, *wanted: int, more: Tensors | None = None) -> Form:
            values = self.matrix(*wanted)
            return Form({"style.safetensors": {key: values} | (more or {})}, {name: [Delta(array(values), 1.0)]})

        def whole(key: str, name: str, refused: list[str] | None = None, config: dict | None = None, *wanted: int) -> Form:
            values = self.matrix(*(wanted or shape[name]))
            files = {"adapter_model.safetensors": tensors | {key: values}}
            if refused:
                return Form(files, refused=refused, config=config)
            strength = (2.0, 4.0) if config else (1.0, 1.0)
            deltas = self.delta(*tensors.values(), *strength)
            return Form(files, {Q: deltas}, {name: values}, config)

        saved = {"peft_type": "LORA", "r": 4, "lora_alpha": 2, "modules_to_save": ["cap_embedder.1"]}
        cap = "cap_embedder.1"
        forms = {
            "norm": full(f"{base}.attention_norm1.diff", "layers.0.attention_norm1.weight", *norm),
            "norm-of-query": full(f"{base}.attention.q_norm.diff", "layers.0.attention.norm_q.weight", *query),
            "norm-of-lycoris": full("lycoris_layers_0_attention_norm1.w_norm", "layers.0.attention_norm1.weight", *norm),
            "bias": full("diffusion_model.x_embedder.diff_b", "all_x_embedder.2-1.bias", *bias),
            "token": full("diffusion_model.x_pad_token.diff", "x_pad_token", *shape["x_pad_token"]),
            "matrix": full(f"{base}.feed_forward.w1.diff", f"{W1}.weight", *shape[f"{W1}.weight"]),
            "matrix-and-alpha": full(
                f"{base}.feed_forward.w1.diff", f"{W1}.weight", *shape[f"{W1}.weight"],
                more={f"{base}.feed_forward.w1.alpha": ones(2)},
            ),
            "saved": whole(f"base_model.model.{cap}.weight", f"{cap}.weight", None, saved),
            "saved-bias": whole(f"base_model.model.{cap}.bias", f"{cap}.bias"),
            "saved-in-wrapper": whole(f"base_model.model.{cap}.modules_to_save.default.weight", f"{cap}.weight", None, saved),
            "saved-norm": whole(f"base_model.model.layers.0.attention_norm1.weight", "layers.0.attention_norm1.weight"),
            "bias-of-peft": whole(f"base_model.model.{cap}.base_layer.bias", f"{cap}.bias"),
            "refused-no-bias": whole(f"base_model.model.{Q}.bias", f"{Q}.weight", ["without a target", Q]),
            "refused-resized": whole(
                f"base_model.model.{cap}.weight", "", [f"{cap}.weight", "found [3, 3]"], saved, 3, 3
            ),
            "refused-foreign": whole("base_model.model.score.weight", "", ["no known form", "score.weight"], None, 3, 3),
            "refused-tokens": whole(
                "base_model.model.embed.token_adapter.trainable_tokens_delta", "", ["trained rows", "trainable_tokens"],
                None, 3, 3,
            ),
            "refused-norm-shape": Form(
                {"style.safetensors": {f"{base}.attention_norm1.diff": self.matrix(*norm, 2)}},
                refused=["attention_norm1", "expected [192]"],
            ),
            "refused-no-such-bias": Form(
                {"style.safetensors": tensors | {f"{base}.attention.to_k.diff_b": self.matrix(192)}},
                refused=["without a target", "to_k.bias"],
            ),
            "refused-model": Form(
                {"style.safetensors": {f"{Q}.weight": self.matrix(192, 192)}}, refused=["whole weights", "no changes"]
            ),
        }  # fmt: skip
        low, up = tensors.values()
        base_layer = self.matrix(*shape[f"{Q}.weight"])
        forms["base-and-pair"] = Form(
            {"style.safetensors": tensors | {f"transformer.{Q}.base_layer.weight": base_layer}},
            whole={f"{Q}.weight": changed(base_layer, self.delta(low, up))},
        )
        return forms

    def twins(self) -> dict[str, Form]:
        """The same change under two names, and changes that are not the same."""
        rows, columns = self.weights[f"{Q}.weight"].shape
        down, ups = self.matrix(4, columns), {layer: self.matrix(rows, 4) for layer in (Q, K, V)}
        stack = np.concatenate(list(ups.values()))
        other = self.matrix(rows, 4)

        def keys(base: str, up: np.ndarray, alpha: float | None = 2.0) -> Tensors:
            own = {f"{base}.lora_down.weight": down, f"{base}.lora_up.weight": up}
            return own if alpha is None else own | {f"{base}.alpha": ones(alpha)}

        def kohya(layer: str) -> str:
            return f"lora_unet_{layer.replace('.', '_')}"

        fused = "lora_unet_layers_0_attention_qkv"
        split = {name: values for layer, up in ups.items() for name, values in keys(kohya(layer), up).items()}
        added = {layer: self.delta(down, up, 2.0, 4.0) for layer, up in ups.items()}
        lokr = {f"lycoris_{Q.replace('.', '_')}.lokr_{side}": self.matrix(*shape) for side, shape in
                (("w1", (2, 2)), ("w2", (rows // 2, columns // 2)))}  # fmt: skip
        again = {name.replace("lycoris_layers_0_attention_to_q", Q): values for name, values in lokr.items()}
        kron = np.kron(*lokr.values()).astype(np.float32)
        two = [f"{layer}" for layer in ("layers.0.attention.to_out.0", "lora_unet_layers_0_attention_out")]
        apart = {"lora_unet_layers_0_attention_out.lora_up.weight": other}
        return {
            "fused-and-split": Form({"a.safetensors": split | keys(fused, stack)}, added),
            "fused-and-one": Form({"a.safetensors": keys(kohya(K), ups[K]) | keys(fused, stack)}, added),
            "out-and-out": Form({"a.safetensors": keys(two[0], other) | keys(two[1], other)},
                                {OUT: self.delta(down, other, 2.0, 4.0)}),
            "one-alpha-for-both": Form({"a.safetensors": keys(two[0], other) | keys(two[1], other, None)},
                                       {OUT: self.delta(down, other, 2.0, 4.0)}),
            "kronecker": Form({"a.safetensors": lokr | again}, {Q: [Delta(array(kron), 1.0)]}),
            "refused-other-rows": Form(
                {"a.safetensors": split | keys(fused, stack[::-1])}, refused=["changed twice", "attention_qkv"]),
            "refused-other-alpha": Form(
                {"a.safetensors": split | keys(fused, stack, 1.0)}, refused=["changed twice", "attention_qkv"]),
            "refused-other-up": Form({"a.safetensors": keys(two[0], other) | keys(two[1], other) | apart | {
                "lora_unet_layers_0_attention_out.lora_up.weight": other + 1}}, refused=["changed twice", two[1]]),
            "refused-names": Form(
                {"a.safetensors": {f"{Q}.lora_{side}.{name}.weight": values for name in ("default", "style")
                                   for side, values in (("A", down), ("B", other))}},
                refused=["several adapters", "`default`, `style`"]),
            "one-name": Form({"a.safetensors": {f"{Q}.lora_A.style.weight": down, f"{Q}.lora_B.style.weight": other}},
                             {Q: self.delta(down, other)}),
        }  # fmt: skip

    def others(self) -> dict[str, Form]:
        """Storage the other way round, kernels, and what other methods write."""
        down, up = self.pair(W1, 6)
        forms = {}
        for name, (turned_down, turned_up) in {
            "both": (down.T, up.T), "down": (down.T, up), "up": (down, up.T),
            "kernels": (down[:, :, None, None], up[:, :, None, None]),
        }.items():  # fmt: skip
            tensors = {f"{W1}.lora_A.weight": turned_down, f"{W1}.lora_B.weight": turned_up}
            tensors = {key: np.ascontiguousarray(values) for key, values in tensors.items()}
            forms[f"turned-{name}"] = Form({"a.safetensors": tensors}, {W1: self.delta(down, up)})
        pair = {f"{W1}.lora_A.weight": down, f"{W1}.lora_B.weight": up}
        for marker, words in {
            "dora_scale": "without its partner", "lora_magnitude_vector.weight": "without its partner", "m": "without",
            "lokr_t2": "without its partner", "hada_t1": "without its partner", "lora_mid.weight": "without its partner",
            "lokr_t1": "LoKr's first factor", "lora_B.bias": "lora_bias", "oft_blocks": "OFT",
            "boft_R": "OFT or BOFT", "ia3_l": "IA3", "on_input": "IA3", "a1.weight": "GLoRA", "vera_lambda_b": "VeRA",
            "lora_E": "AdaLoRA", "lora_embedding_A": "embeddings", "set_weight": "ComfyUI", "reshape_weight": "ComfyUI",
            "something_new": "no known form", "lora_A.weight_scale": "quantised themselves",
            "lora_B.scale_weight": "quantised themselves", "lora_a.scales": "quantised themselves",
        }.items():  # fmt: skip
            key = f"{K}.{marker}"
            forms[f"refused-{marker}"] = Form({"a.safetensors": pair | {key: self.matrix(4, 4)}}, refused=[words, key])
        forms["refused-ranks"] = Form(
            {"a.safetensors": {f"{W1}.lora_A.weight": down, f"{W1}.lora_B.weight": up[:, :5].copy()}}, refused=[W1, "6"]
        )
        forms["other-component"] = Form(
            {"a.safetensors": pair | {f"text_encoder.layers.0.mlp.up_proj.lora_A.weight": self.matrix(4, 4),
                                      "lora_te_layers_0_mlp_up_proj.alpha": ones(1)}}, {W1: self.delta(down, up)})  # fmt: skip
        return forms

    def all(self) -> dict[str, Form]:
        kinds: dict[str, Callable[[], dict[str, Form]]] = {
            "spelling": self.spellings, "config": self.configs, "metadata": self.metadatas, "whole": self.wholes,
            "twin": self.twins, "other": self.others,
        }  # fmt: skip
        return {f"{kind}-{name}": form for kind, make in kinds.items() for name, form in make().items()}

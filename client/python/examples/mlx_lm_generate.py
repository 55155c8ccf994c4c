"""Generates text with mlx-lm from a model that the daemon has quantised.

    python mlx_lm_generate.py Qwen/Qwen3-0.6B "Why is the sky blue?"
"""

import sys

import mlx_lm

import weightsd

model, prompt = sys.argv[1:3]
folder = weightsd.path(model, format="mlx", quantise=sys.argv[3] if len(sys.argv) > 3 else "affine:4:64")
language_model, tokenizer = mlx_lm.load(str(folder))
print(mlx_lm.generate(language_model, tokenizer, prompt, max_tokens=20))

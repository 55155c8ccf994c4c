"""Paints a picture with diffusers. Every process that runs this shares one copy of the weights.

    python diffusers_z_image.py Tongyi-MAI/Z-Image-Turbo "a cat on a mat" cat.png
"""

import sys

import diffusers
import torch

import weightsd

model, prompt, output = sys.argv[1:4]
size, steps = (int(sys.argv[4]), int(sys.argv[5])) if len(sys.argv) > 5 else (1024, 9)

# The daemon casts once, for everyone; `from_pretrained` then maps the files and copies nothing.
folder = weightsd.path(model, dtype="bf16")
pipeline = diffusers.ZImagePipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)
picture = pipeline(prompt, width=size, height=size, num_inference_steps=steps, guidance_scale=0.0).images[0]
picture.save(output)
print(f"{output}: {picture.width} x {picture.height}")

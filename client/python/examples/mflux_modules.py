"""Gives the arrays of a component to mflux's module as they are: its names, its kernels' order, nothing computed in Python.

    python mflux_modules.py Tongyi-MAI/Z-Image-Turbo
"""

import sys

from mflux.models.z_image.model.z_image_vae.vae import VAE

import weightsd

with weightsd.load(sys.argv[1], "vae", layout="mflux") as vae:
    module = VAE()
    module.load_weights(vae.mlx_module_weights(), strict=True)
    print(f"{len(vae)} arrays; {vae.report()}")

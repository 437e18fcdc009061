"""From latents to pixels with gradients: through the model's own VAE, or a tiny decoder at a part of the cost."""

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.models.folder import read_module
from lab.sample.pixels import to_pixels

Decode = Callable[[Tensor], Tensor]
"""Latents (n, c, h, w) to pixels (n, 3, H, W) in 0..1, both float32; differentiable."""


def decoder(bundle: Bundle, tiny: Path | None) -> Decode:
    """The model's own VAE, or the tiny autoencoder in a folder.

    Raises:
        InputError: no AutoencoderTiny in the folder, or one for other latents.
    """
    if tiny is None:
        return lambda latents: to_pixels(bundle, latents)
    if not (tiny / "config.json").is_file():
        raise InputError(
            f"{tiny}: no tiny decoder; its folder has config.json and the weights of an AutoencoderTiny"
        )
    vae = read_module(AutoencoderTiny, tiny, None, torch.float32).requires_grad_(False).to(bundle.device)
    channels = bundle.unet.config.in_channels
    if vae.config.latent_channels != channels:
        raise InputError(
            f"{tiny}: decodes latents of {vae.config.latent_channels} channels, and {bundle.source} has {channels}"
        )

    def decode(latents: Tensor) -> Tensor:
        return (vae.decode(latents.to(bundle.device), return_dict=False)[0] / 2 + 0.5).clamp(0, 1)

    return decode

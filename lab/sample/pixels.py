"""Between latents and pixels, through the VAE."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lab.errors import InputError
from lab.models.bundle import Bundle

DECODE_BATCH = 4
"""Latents decoded together: the decoder is where memory peaks, and larger batches are no faster."""


def to_pixels(bundle: Bundle, latents: Tensor) -> Tensor:
    """Decodes latents (n, c, h, w), in the U-Net's scale, to float32 pixels (n, 3, H, W) in 0..1; differentiable."""
    vae = bundle.vae
    mean, std = _statistics(bundle)
    latents = latents * std.to(latents) / vae.config.scaling_factor + mean.to(latents)
    decoded = vae.decode(latents.to(bundle.device, vae.dtype), return_dict=False)[0]
    return (decoded.float() / 2 + 0.5).clamp(0, 1)


def decode(bundle: Bundle, latents: Tensor) -> Iterator[Image.Image]:
    """Yields the images of latents (n, c, h, w), rounded to 8 bits as diffusers' pipelines do.

    Beside a U-Net in bfloat16 the VAE multiplies in it too: half the time, 55 dB PSNR from float32
    (`scripts/bench_dtype.py`). float16 overflows in many VAEs, which therefore stay in float32 beside it.

    Raises:
        InputError: the VAE gave pixels that are no numbers.
    """
    for some in latents.split(DECODE_BATCH):
        with torch.inference_mode(), _precision(bundle):
            pixels = to_pixels(bundle, some).permute(0, 2, 3, 1).cpu().numpy()
        if not np.isfinite(pixels).all():
            raise InputError(
                "the VAE gave NaN, which would be a black image; try another --vae, or --dtype float32"
            )
        for array in (pixels * 255).round().astype(np.uint8):
            yield Image.fromarray(array)


@torch.no_grad()
def posterior(bundle: Bundle, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (n, c, h, w), float32 on the CPU and in the U-Net's scale, of the latents of
    pixels (n, 3, H, W) in -1..1."""
    mean, std = _statistics(bundle)
    vae = bundle.vae
    distribution = vae.encode(pixels.to(bundle.device, vae.dtype)).latent_dist
    scale = vae.config.scaling_factor / std
    return (distribution.mean.float().cpu() - mean) * scale, distribution.std.float().cpu() * scale


def encode_image(bundle: Bundle, image: Image.Image) -> Tensor:
    """The mean latents (1, c, h, w), float32 on the CPU and in the U-Net's scale, of an image; they depend on no seed.

    Width and height have to be multiples of the VAE's downscaling, as `fit` makes them.
    """
    array = np.asarray(image.convert("RGB"), dtype=np.float32) / 127.5 - 1
    return posterior(bundle, torch.from_numpy(array).permute(2, 0, 1)[None])[0]


def _precision(bundle: Bundle) -> AbstractContextManager[object]:
    return bundle.autocast() if bundle.dtype == torch.bfloat16 else nullcontext()


def _statistics(bundle: Bundle) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (1, c, 1, 1) that some SDXL VAEs state for their latents; else 0 and 1."""
    mean = getattr(bundle.vae.config, "latents_mean", None)
    std = getattr(bundle.vae.config, "latents_std", None)
    if mean is None or std is None:
        return torch.zeros(1), torch.ones(1)
    return torch.tensor(mean).view(1, -1, 1, 1), torch.tensor(std).view(1, -1, 1, 1)

"""Between latents and pixels, through the VAE."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.models.device import to_device

DECODE_BATCH = 4
"""Latents decoded together: the decoder is where memory peaks, and larger batches are no faster."""


def to_pixels(bundle: Bundle, latents: Tensor) -> Tensor:
    """Decodes latents (n, c, h, w), in the U-Net's scale, to float32 pixels (n, 3, H, W) in 0..1; differentiable."""
    return (_decoded(bundle, latents) / 2 + 0.5).clamp(0, 1)


def _decoded(bundle: Bundle, latents: Tensor) -> Tensor:
    """(n, 3, H, W) float32, about -1..1, from latents in the U-Net's scale."""
    vae = bundle.vae
    mean, std = _statistics(bundle)
    latents = latents * std.to(latents) / vae.config.scaling_factor + mean.to(latents)
    with bundle.turn():
        return vae.decode(latents.to(bundle.device, torch.float32), return_dict=False)[0].float()


def decode_images(bundle: Bundle, latents: Tensor) -> Iterator[Image.Image]:
    """Yields the images of latents (n, c, h, w), rounded to 8 bits as diffusers' pipelines do.

    Beside a U-Net in half precision the VAE multiplies in one too (see `vae_precision`), and where that gives no
    numbers, in float32.

    Raises:
        InputError: the VAE gave pixels that are no numbers.
    """
    precision = vae_precision(bundle)
    for some in latents.split(DECODE_BATCH):
        for array in _bytes(bundle, some, precision):
            yield Image.fromarray(array)


@torch.inference_mode()
def _bytes(bundle: Bundle, latents: Tensor, precision: torch.dtype) -> NDArray[np.uint8]:
    """(n, H, W, 3): what the device decoded, rounded there, so that a quarter of the bytes is copied."""
    with torch.autocast(bundle.device.type, precision, enabled=precision != torch.float32):
        decoded = _decoded(bundle, latents)
    if not decoded.isfinite().all():
        if precision != torch.float32:
            return _bytes(bundle, latents, torch.float32)
        raise InputError("the VAE gave NaN, which would be a black image; try another --vae")
    pixels = (decoded / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def vae_precision(bundle: Bundle) -> torch.dtype:
    """What the VAE multiplies in: on a GPU what the U-Net computes in, as diffusers' pipelines in half precision do.

    bfloat16 takes half the time of float32 on CPUs too, at 55 dB PSNR from it (`scripts/bench_dtype.py`). SDXL's VAE
    overflows in float16 and says so (`force_upcast`, which other families' configs do not decide about); bfloat16,
    whose range is float32's, takes its place where a GPU has it. CPUs gain nothing by float16.
    """
    if bundle.dtype != torch.float16:
        return bundle.dtype
    if bundle.device.type != "cuda":
        return torch.float32
    if bundle.family == "sdxl" and bundle.vae.config.force_upcast:
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float32
    return torch.float16


@torch.no_grad()
def posterior(bundle: Bundle, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (n, c, h, w), float32 on the bundle's device and in the U-Net's scale, of the
    latents of pixels (n, 3, H, W) in -1..1."""
    mean, std = (each.to(bundle.device) for each in _statistics(bundle))
    vae = bundle.vae
    with bundle.turn():
        distribution = vae.encode(to_device(pixels, bundle.device).float()).latent_dist
    scale = vae.config.scaling_factor / std
    return (distribution.mean.float() - mean) * scale, distribution.std.float() * scale


def encode_image(bundle: Bundle, image: Image.Image) -> Tensor:
    """The mean latents (1, c, h, w), float32 on the CPU and in the U-Net's scale, of an image; they depend on no seed.

    Width and height have to be multiples of the VAE's downscaling, as `fit` makes them.
    """
    array = np.asarray(image.convert("RGB"), dtype=np.float32) / 127.5 - 1
    return posterior(bundle, torch.from_numpy(array).permute(2, 0, 1)[None])[0].cpu()


def _statistics(bundle: Bundle) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (1, c, 1, 1) that some SDXL VAEs state for their latents; else 0 and 1."""
    mean = getattr(bundle.vae.config, "latents_mean", None)
    std = getattr(bundle.vae.config, "latents_std", None)
    if mean is None or std is None:
        return torch.zeros(1), torch.ones(1)
    return torch.tensor(mean).view(1, -1, 1, 1), torch.tensor(std).view(1, -1, 1, 1)

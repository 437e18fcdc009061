"""Random draws on whichever device a generator belongs to, and what batches of images are made of."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def integers(high: int, shape: tuple[int, ...] | int, generator: torch.Generator) -> Tensor:
    """Integers from [0, high)."""
    shape = (shape,) if isinstance(shape, int) else shape
    return torch.randint(0, high, shape, generator=generator, device=generator.device)


def chances(shape: tuple[int, ...] | int, generator: torch.Generator) -> Tensor:
    """Numbers from [0, 1)."""
    shape = (shape,) if isinstance(shape, int) else shape
    return torch.rand(shape, generator=generator, device=generator.device)


def normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers in the shape of `like`, on its device, in float32."""
    return torch.randn(like.shape, generator=generator, device=generator.device)


def windows(images: Tensor, corners: Tensor, side: int) -> Tensor:
    """(b, c, side, side): of every image (b, c, h, w) the square with its top left at `corners` (b, 2), y and x."""
    count, channels = images.shape[:2]
    rows, columns = (c[:, None] + torch.arange(side, device=images.device) for c in corners.T)
    which = torch.arange(count, device=images.device).view(-1, 1, 1, 1)
    colour = torch.arange(channels, device=images.device).view(1, -1, 1, 1)
    return images[which, colour, rows[:, None, :, None], columns[:, None, None, :]]


def shifted(pixels: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Every image moved by up to `most` px each way; what comes in repeats the border."""
    padded = F.pad(pixels, (most,) * 4, mode="replicate")
    return windows(padded, integers(2 * most + 1, (len(pixels), 2), generator), pixels.shape[-1])


def worn(pixels: Tensor, grain: float, generator: torch.Generator) -> Tensor:
    """The images with up to `grain` of noise, three in ten a little soft: as a small generator makes them."""
    strength = grain * chances((len(pixels), 1, 1, 1), generator)
    pixels = pixels + strength * normal(pixels, generator)
    soft = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return torch.where(chances((len(pixels), 1, 1, 1), generator) < 0.3, soft, pixels)


def halved(images: Tensor, indices: list[int]) -> Tensor:
    """These images, (n, 3, s, s) uint8, averaged over 2 x 2 px, and left on their device."""
    parts = [images[indices[i : i + 256]].float() for i in range(0, len(indices), 256)]
    return torch.cat([F.avg_pool2d(part, 2).round().byte() for part in parts])

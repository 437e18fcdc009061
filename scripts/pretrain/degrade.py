"""The four ways in which an image may be bad, as functions of pixels; what negative prompts have to work against.

Every function takes and returns (3, h, w) float32 in [0, 1]; strength and noise come from the generator given.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Degradation = Callable[[Tensor, torch.Generator], Tensor]


def uniform(low: float, high: float, generator: torch.Generator) -> float:
    """One number from [low, high)."""
    return low + (high - low) * torch.rand((), generator=generator).item()


def blur(image: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian blur, standard deviation 2.5 to 4.5 px at 128 px."""
    sigma = uniform(2.5, 4.5, generator) * image.shape[-1] / 128
    radius = max(1, round(2.5 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    planes = F.pad(image[:, None], (radius, radius, radius, radius), mode="replicate")
    return F.conv2d(F.conv2d(planes, kernel), kernel.transpose(2, 3))[:, 0]


def pixelate(image: Tensor, generator: torch.Generator) -> Tensor:
    """Blocks of 8 or 10.7 px at 128 px: averaged down to 16 or 12 cells, and up again without smoothing."""
    cells = 16 if torch.rand((), generator=generator) < 0.5 else 12
    small = F.interpolate(image[None], (cells, cells), mode="area")
    return F.interpolate(small, image.shape[-2:], mode="nearest")[0]


def noise(image: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian noise, standard deviation 0.12 to 0.25, coarse enough (2 px grain) to outlive an 8x autoencoder."""
    height, width = image.shape[-2:]
    grain = torch.randn(1, 3, height // 2, width // 2, generator=generator)
    grain = F.interpolate(grain, (height, width), mode="nearest")[0]
    return (image + uniform(0.12, 0.25, generator) * grain).clamp(0, 1)


def wash_out(image: Tensor, generator: torch.Generator) -> Tensor:
    """Contrast down to 30 to 45 %, towards a light grey."""
    keep = uniform(0.3, 0.45, generator)
    grey = image.mean(0, keepdim=True)
    return keep * (0.5 * image + 0.5 * grey) + (1 - keep) * 0.72


DEGRADATIONS: dict[str, Degradation] = {
    "blurry": blur,
    "pixelated": pixelate,
    "noisy": noise,
    "washed out": wash_out,
}

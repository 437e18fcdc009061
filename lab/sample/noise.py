"""Noise that belongs to an image: drawn on the CPU from the image's own generator."""

from collections.abc import Sequence

import torch
from torch import Tensor


def image_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator an image; the initial noise comes first, then any that the scheduler asks for."""
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def initial_noise(generators: Sequence[torch.Generator], shape: tuple[int, int, int]) -> Tensor:
    """Standard normal latents (b, c, h, w) in float32 on the CPU, as diffusers draws them from such a list.

    Each image's noise depends on its seed alone: not on the batch, the device or the precision.
    """
    return torch.cat([torch.randn((1, *shape), generator=generator) for generator in generators])

"""What makes a decoder's edges crisp: a patch discriminator, its features, and features of the tower that names things.

L1 and L2 alone answer every doubt about an edge's place with a blur.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scripts.pretrain.clip import Sight
from scripts.pretrain.convolution import channels_last


class Patches(nn.Module):
    """(b, 3, h, w) -> (b, 1, h / 4, w / 4) scores of patches, high for real ones, and the features of every layer."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 128)) -> None:
        super().__init__()
        strides = (2, 2, *(1 for _ in widths[2:]))
        layers = [
            nn.utils.parametrizations.spectral_norm(channels_last(nn.Conv2d(before, width, 3, stride, 1)))
            for before, width, stride in zip((3, *widths), widths, strides, strict=False)
        ]
        self.layers = nn.ModuleList(layers)
        self.score = channels_last(nn.Conv2d(widths[-1], 1, 3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scores and features."""
        features = []
        for layer in self.layers:
            images = F.leaky_relu(layer(images), 0.2)
            features.append(images)
        return self.score(images), features


def apart(features: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """Mean L1 distance of two lists of features, each layer in units of its own mean size."""
    parts = [
        F.l1_loss(a.float(), b.float()) / b.float().abs().mean().clamp_min(1e-3)
        for a, b in zip(features, wanted, strict=True)
    ]
    return torch.stack(parts).mean()


def edges(images: Tensor) -> Tensor:
    """(b, 3, h, w) in [-1, 1] -> (b, 1, h / 4, w / 4): how much a patch's verdict counts, 1 on average. Flat ground
    is alike in any two images, and says nothing."""
    down, right = F.pad(images.diff(dim=2), (0, 0, 0, 1)).abs(), F.pad(images.diff(dim=3), (0, 1)).abs()
    steps = torch.maximum(down, right).amax(1, keepdim=True).clamp(max=1)
    found = F.max_pool2d(steps, 8, 4, 2) + 0.05
    return found / found.mean()


def sharpness_loss(
    patches: Patches, output: Tensor, target: Tensor, weights: Mapping[str, Tensor | float]
) -> Tensor:
    """What the decoder and the discriminator lose, in one sum: neither's part has gradients for the other.

    Hinge loss (Lim and Ye 2017) of both, by patches that hold an edge, and the discriminator's features to match
    (pix2pixHD, eq. 4).
    """
    counts = edges(target)
    patches.requires_grad_(False)
    score, features = patches(output)
    with torch.no_grad():
        wanted = patches(target)[1]
    verdict = (counts * score.float()).mean()
    decoder = -weights["adversary"] * verdict + weights["matching"] * apart(features, wanted)
    patches.requires_grad_(True)
    fake, real = patches(output.detach())[0].float(), patches(target)[0].float()
    return decoder + (counts * (F.relu(1 + fake) + F.relu(1 - real))).mean()


class Perception:
    """How differently two images strike the convolutional tower that learnt to name objects."""

    def __init__(self, sight: Sight) -> None:
        self.layers = list(sight.body.eval().requires_grad_(False))[
            :15
        ]  # to 128 channels, an eighth of the side

    def _features(self, images: Tensor) -> list[Tensor]:
        found = []
        for layer in self.layers:
            images = layer(images)
            if isinstance(layer, nn.ReLU):
                found.append(images)
        return found

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean distance over layers; (b, 3, h, w) twice."""
        with torch.no_grad():
            wanted = self._features(target)
        return apart(self._features(output), wanted)

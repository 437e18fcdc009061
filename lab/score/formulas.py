"""The metrics that are plain formulas, of pixels or of CLIP features: no weights, no files."""

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = (0.299, 0.587, 0.114)
"""ITU-R BT.601 luma."""

WINDOW, WINDOW_SIGMA = 11, 1.5
"""SSIM's Gaussian window, in pixels."""

C1, C2 = 0.01**2, 0.03**2
"""SSIM's (K L)^2 with K1 = 0.01, K2 = 0.03 and values up to L = 1."""


def grey(pixels: Tensor) -> Tensor:
    """The luma (n, 1, H, W) of pixels (n, 3, H, W)."""
    return (pixels * torch.tensor(GREY).view(1, 3, 1, 1).to(pixels)).sum(dim=1, keepdim=True)


def ssim(one: Tensor, other: Tensor) -> Tensor:
    """Structural similarity (n,) in -1..1 of the images' luma, 1 for equal images (Wang et al. 2004, eq. 13).

    Gaussian window of 11 pixels and sigma 1.5, K1 = 0.01, K2 = 0.03, averaged where the window fits, as in the
    authors' own code. Images smaller than the window get one that fits.

    Args:
        one, other: (n, 3, H, W) in 0..1.
    """
    window = _window(min(WINDOW, *one.shape[-2:])).to(one)
    x, y = grey(one), grey(other)
    maps = torch.cat([x, y, x * x, y * y, x * y])
    local = F.conv2d(F.conv2d(maps, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
    mean_x, mean_y, square_x, square_y, product = local.chunk(5)
    var_x, var_y = square_x - mean_x**2, square_y - mean_y**2
    covariance = product - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * covariance + C2) / (var_x + var_y + C2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def _window(size: int) -> Tensor:
    places = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
    weights = torch.exp(-(places**2) / (2 * WINDOW_SIGMA**2))
    return weights / weights.sum()


def sharpness(pixels: Tensor) -> Tensor:
    """Variance (n,), from 0, of the Laplacian of the luma in 0..255 (Pech-Pacheco et al. 2000, their LAPV).

    Args:
        pixels: (n, 3, H, W) in 0..1.
    """
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).view(1, 1, 3, 3).to(pixels)
    return F.conv2d(grey(pixels) * 255, kernel).flatten(1).var(dim=1, correction=0)


def colourfulness(pixels: Tensor) -> Tensor:
    """Colourfulness M3 (n,) of Hasler & Suesstrunk (2003), section 7: 0 for grey, about 109 for extremely colourful.

    Args:
        pixels: (n, 3, H, W) in 0..1.
    """
    red, green, blue = (pixels * 255).flatten(2).unbind(dim=1)
    across, along = red - green, (red + green) / 2 - blue
    spread = (across.var(dim=1, correction=0) + along.var(dim=1, correction=0) + 1e-12).sqrt()
    return spread + 0.3 * (across.mean(dim=1) ** 2 + along.mean(dim=1) ** 2 + 1e-12).sqrt()


KERNEL_SIGMA, SCALE = 10.0, 1000.0
"""Bandwidth of CMMD's kernel, and the factor that makes its values easy to read."""


def diversity(features: Tensor) -> Tensor:
    """Mean cosine distance, a scalar in 0..2, over all pairs of images; NaN for fewer than two.

    DIV of Ruiz et al. (2208.12242), with CLIP in place of LPIPS.

    Args:
        features: (n, p) CLIP features of unit length.
    """
    count = len(features)
    if count < 2:
        return torch.tensor(torch.nan)
    total = features.sum(dim=0).square().sum() - features.square().sum()
    return 1 - total / (count * (count - 1))


def cmmd(features: Tensor, references: Tensor) -> Tensor:
    """CLIP maximum mean discrepancy, a scalar from 0 (Jayasumana et al. 2401.09603, eq. 2), times 1000.

    Gaussian kernel exp(-|x - y|^2 / (2 sigma^2)) with sigma 10 on CLIP features of unit length; as in the authors'
    code, each mean is over all pairs, an image with itself included.

    Args:
        features: (n, p), of the images.
        references: (m, p), of the images that they shall be like.
    """
    within = _mean_kernel(features, features) + _mean_kernel(references, references)
    return SCALE * (within - 2 * _mean_kernel(features, references))


def _mean_kernel(one: Tensor, other: Tensor) -> Tensor:
    one, other = one.double(), other.double()  # the means agree to five digits, and their differences count
    squares = one.square().sum(dim=1)[:, None] + other.square().sum(dim=1) - 2 * one @ other.T
    return torch.exp(-squares / (2 * KERNEL_SIGMA**2)).mean()

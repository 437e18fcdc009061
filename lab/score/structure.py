"""Metrics that look at pixels alone."""

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = (0.299, 0.587, 0.114)
"""ITU-R BT.601 luma."""

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


def grey(pixels: Tensor) -> Tensor:
    """(n, 3, H, W) -> (n, 1, H, W)."""
    return (pixels * torch.tensor(GREY).view(1, 3, 1, 1).to(pixels)).sum(dim=1, keepdim=True)


def ssim(one: Tensor, other: Tensor) -> Tensor:
    """Structural similarity (n,) in -1..1 of greyscale images, 1 for equal ones (Wang et al. 2004, eq. 13).

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
    weights = torch.exp(-(places**2) / (2 * SIGMA**2))
    return weights / weights.sum()


def sharpness(pixels: Tensor) -> Tensor:
    """Variance (n,) of the Laplacian of the greyscale image in 0..255 (Pech-Pacheco et al. 2000)."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).view(1, 1, 3, 3).to(pixels)
    return F.conv2d(grey(pixels) * 255, kernel).flatten(1).var(dim=1, correction=0)


def colourfulness(pixels: Tensor) -> Tensor:
    """M3 (n,) of Hasler & Suesstrunk (2003), section 7: 0 for grey, about 109 for extremely colourful images."""
    red, green, blue = (pixels * 255).flatten(2).unbind(dim=1)
    across, along = red - green, (red + green) / 2 - blue
    spread = (across.var(dim=1, correction=0) + along.var(dim=1, correction=0) + 1e-12).sqrt()
    return spread + 0.3 * (across.mean(dim=1) ** 2 + along.mean(dim=1) ** 2 + 1e-12).sqrt()

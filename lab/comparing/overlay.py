"""Heat maps as pictures: colours laid over the image."""

from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image
from torch import Tensor

from lab.files import atomic

COLOURS = "turbo"
"""The matplotlib colormap, from nothing to `high`."""


def overlay(image: Image.Image, heat: Tensor, high: float | None = None, opacity: float = 0.6) -> Image.Image:
    """Lays a map (H, W) of the image's size over it.

    Args:
        high: The value that gets the last colour; by default the map's own largest. Give one value to several maps
            to make them comparable.
        opacity: Of the colours, 0 to 1.
    """
    top = float(heat.max()) if high is None else high
    shares = np.clip(heat.numpy() / max(top, 1e-12), 0, 1)
    colours = matplotlib.colormaps[COLOURS](shares, bytes=True)[..., :3]
    return Image.blend(image.convert("RGB"), Image.fromarray(colours), opacity)


def save_overlay(path: Path, image: Image.Image, heat: Tensor, high: float | None = None) -> None:
    """Writes an overlay as a PNG file.

    Raises:
        InputError: the file cannot be written.
    """
    with atomic(path) as temporary:
        overlay(image, heat, high).save(temporary, format="PNG")

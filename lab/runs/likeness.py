"""How alike two images are, in words and a number."""

from pathlib import Path

import numpy as np
from PIL import Image

ROUNDING = 50.0
"""dB: one level of 255 in every pixel makes 48; another batch size or machine rounds a few pixels otherwise."""


def psnr(first: Image.Image, second: Image.Image) -> float:
    """Peak signal-to-noise ratio of two images of one size, in dB; infinite if they are identical."""
    one, other = (np.asarray(image.convert("RGB"), dtype=np.float64) for image in (first, second))
    error = float(((one - other) ** 2).mean())
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def likeness(path: Path, again: Image.Image) -> str:
    """Says whether an image equals the one at `path`."""
    with Image.open(path) as first:
        if first.size != again.size:
            return (
                f"another size: {first.size[0]}x{first.size[1]} before, {again.size[0]}x{again.size[1]} now"
            )
        ratio = psnr(first, again)
    if ratio == float("inf"):
        return "the same, pixel for pixel"
    if ratio >= ROUNDING:
        return f"the same but for rounding (PSNR {ratio:.0f} dB)"
    return f"another image (PSNR {ratio:.1f} dB)"

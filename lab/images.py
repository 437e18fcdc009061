"""Images as files, as tensors, and how alike two of them are."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lab.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def to_tensor(images: Sequence[Image.Image]) -> Tensor:
    """Images of one size as (n, 3, H, W) float32 in 0..1."""
    array = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255


def read_pixels(path: Path) -> Tensor:
    """One image file as (3, H, W) float32 in 0..1.

    Raises:
        InputError: missing, or not an image.
    """
    try:
        with Image.open(path) as image:
            return to_tensor([image])[0]
    except FileNotFoundError:
        raise InputError(f"{path}: no such image") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise InputError(f"{path}: not an image that can be read") from None


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder and its subfolders, sorted.

    Raises:
        InputError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of images")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise InputError(f"{folder}: holds no images ({', '.join(SUFFIXES)})")
    return found


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

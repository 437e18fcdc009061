"""Pictures as tensors."""

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

"""Images as files, as tensors, and how alike two of them are. No other module opens image files."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lab.errors import InputError

if TYPE_CHECKING:  # a missing file is told before torch is imported
    from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def load_image(path: Path, data: bytes | None = None) -> Image.Image:
    """An image file upright, whole and decoded, in its own mode; the text chunks of a PNG are in `info`.

    Args:
        path: Names the file in errors.
        data: The file's bytes, where they were read already.

    Raises:
        InputError: the file is missing, no image, damaged, of more pixels than Pillow opens (179 million), or has
            text chunks of more than 1 MB.
    """
    try:
        with Image.open(path if data is None else BytesIO(data)) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            # Chunks behind the pixels are known only now, and turning an image drops them all.
            upright.info = {**image.info, **getattr(image, "text", {}), **upright.info}
            return upright
    except FileNotFoundError:
        raise InputError(f"{path}: no such image") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: not an image that can be read") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's many readers raise all kinds on damaged files
        raise InputError(f"{path}: not an image that can be read: {error}") from None


def open_image(path: Path) -> Image.Image:
    """An image file upright, as RGB.

    Raises:
        InputError: see `load_image`.
    """
    return load_image(path).convert("RGB")


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scales an image to cover `size` (width, height) and cuts off what overlaps."""
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def text_chunks(path: Path) -> Mapping[str, str]:
    """The text chunks of a PNG by their keywords.

    Raises:
        InputError: see `load_image`.
    """
    info = load_image(path).info
    return {str(key): value for key, value in info.items() if isinstance(value, str)}


def to_tensor(images: Sequence[Image.Image]) -> "Tensor":
    """Images of one size as (n, 3, H, W) float32 in 0..1."""
    import torch

    array = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255


def read_pixels(path: Path) -> "Tensor":
    """One image file as (3, H, W) float32 in 0..1.

    Raises:
        InputError: see `load_image`.
    """
    return to_tensor([open_image(path)])[0]


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder and its subfolders, sorted.

    Raises:
        InputError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of images")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise InputError(f"{folder}: holds no images ({', '.join(SUFFIXES)})")
    return paths


ROUNDING = 50.0
"""dB: one level of 255 in every pixel makes 48; another batch size or machine rounds a few pixels otherwise."""


def psnr(first: Image.Image, second: Image.Image) -> float:
    """Peak signal-to-noise ratio of two images of one size, in dB; infinite if they are identical."""
    one, other = (np.asarray(image.convert("RGB"), dtype=np.float64) for image in (first, second))
    error = float(((one - other) ** 2).mean())
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def likeness(path: Path, again: Image.Image) -> str:
    """Says whether an image equals the one at `path`, in a few words.

    Raises:
        InputError: see `load_image`.
    """
    first = open_image(path)
    if first.size != again.size:
        before, now = ("x".join(map(str, image.size)) for image in (first, again))
        return f"another size: {before} before, {now} now"
    ratio = psnr(first, again)
    if ratio == float("inf"):
        return "the same, pixel for pixel"
    if ratio >= ROUNDING:
        return f"the same but for rounding (PSNR {ratio:.0f} dB)"
    return f"another image (PSNR {ratio:.1f} dB)"

"""Images as files, as tensors, and how alike two of them are. No other module opens image files."""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError, features

from lab.errors import InputError
from lab.files import is_folder
from lab.listening import Listener
from lab.text import counted

if TYPE_CHECKING:  # a missing file is told before torch is imported
    from torch import Tensor

SUFFIXES_OF = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "HEIF": (".heic", ".heif"),
}
"""Formats that are read, by Pillow's names. Pillow is never left to guess among all that it knows: for some, such as
EPS, it starts a program on the file."""

_INSTALLED = {
    "WEBP": features.check("webp"),
    "AVIF": features.check("avif"),
    "HEIF": find_spec("pillow_heif"),
}
FORMATS = tuple(name for name in SUFFIXES_OF if _INSTALLED.get(name, True))
"""Those that can be read here: AVIF if Pillow was built with it, HEIC if the package pillow-heif is installed."""

SUFFIXES = tuple(suffix for name in FORMATS for suffix in SUFFIXES_OF[name])

_BESIDE_IMAGES = frozenset(
    ".txt .caption .json .jsonl .yaml .yml .csv .html .css .js .md .lock .safetensors .pt .bin .db .ini".split()
)
"""Files that belong beside images: captions, records, pages, weights, and what file managers put there."""

_MODES = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK"))
_QUIET = Lock()


def load_image(path: Path, data: bytes | None = None, most: int | None = None) -> Image.Image:
    """An image file upright, whole and decoded, 8 bits a channel; the text chunks of a PNG are in `info`.

    Of several frames the first counts. Grey of more than 8 bits is scaled (`_eight_bits`).

    Args:
        path: Names the file in errors.
        data: The file's bytes, where they were read already.
        most: The most pixels that are decoded; by default what Pillow opens (179 million).

    Raises:
        InputError: the file is missing, of no format in `FORMATS`, damaged, of more pixels than that, or has text
            chunks of more than 1 MB.
    """
    unreadable = f"{path}: not an image that can be read"
    try:
        with _quietly(), Image.open(path if data is None else BytesIO(data), formats=_openers()) as image:
            if most is not None and image.width * image.height > most:
                raise Image.DecompressionBombError
            image.load()
            upright = ImageOps.exif_transpose(image)
            # Chunks behind the pixels are known only now, and turning an image drops them all.
            upright.info = {**image.info, **getattr(image, "text", {}), **upright.info}
            if upright.mode[0] in "IF":
                return _eight_bits(upright)
            return upright if upright.mode in _MODES else upright.convert("RGB")
    except FileNotFoundError:
        raise InputError(f"{path}: no such image") from None
    except UnidentifiedImageError:
        raise InputError(f"{unreadable} (as {', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        most = most or 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise InputError(
            f"{unreadable}: too large, over {most // 10**6} million pixels; scale it down"
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's many readers raise all kinds on damaged files
        raise InputError(f"{unreadable}: {error}") from None


def _openers() -> tuple[str, ...]:
    if "HEIF" in FORMATS and "HEIF" not in Image.OPEN:
        import_module("pillow_heif").register_heif_opener()
    return FORMATS


@contextmanager
def _quietly() -> Iterator[None]:
    """Keeps Pillow's warnings from the terminal; one thread at a time, since Python's filters are the process's."""
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits or of floats as 8 bits, with transparency where the file names a transparent grey.

    16-bit files reach to 65535. Others do not say how far they reach: whole numbers to the first of 255, 65535 and
    2**31 - 1 that holds them all, floats to the first of 1, 255 and 65535.

    Raises:
        ValueError: pixels that are negative, not finite or beyond this; floats up to between 1 and 16, which are
            neither 0..1 nor 0..255.
    """
    import numpy as np  # commands tell what is wrong before they take the time for it

    values = np.asarray(image, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    reaches = (1, 255, 65535) if image.mode == "F" else (255, 65535, 2**31 - 1)
    reach = 65535 if image.mode.startswith("I;16") else next((top for top in reaches if high <= top), None)
    if low < 0 or reach is None or not np.isfinite(values).all() or (image.mode == "F" and 1 < high <= 16):
        raise ValueError(f"its pixels reach from {low:g} to {high:g}; save it with 8 or 16 bits")
    grey = Image.fromarray((values * (255 / reach)).round().astype(np.uint8))
    transparent = image.info.pop("transparency", None)
    if isinstance(transparent, int):
        alpha = Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
        grey = Image.merge("LA", (grey, alpha))
    grey.info = image.info
    return grey


def on_ground(image: Image.Image, ground: str = "white") -> Image.Image:
    """The image as RGB, where it is transparent laid on a colour (a name or #rrggbb)."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    below = Image.new("RGBA", image.size, ImageColor.getrgb(ground))
    return Image.alpha_composite(below, image.convert("RGBA")).convert("RGB")


def open_image(path: Path) -> Image.Image:
    """An image file upright, as RGB, on white where it is transparent.

    Raises:
        InputError: see `load_image`.
    """
    return on_ground(load_image(path))


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scales an image to cover `size` (width, height) and cuts off what overlaps."""
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def text_chunks(path: Path, data: bytes | None = None, most: int | None = None) -> Mapping[str, str]:
    """The text chunks of a PNG by their keywords. What the A1111 web UI writes into the EXIF data of JPEG and WebP
    files is called `parameters`, as the chunk in its PNGs.

    Args:
        path, data, most: As `load_image` takes them.

    Raises:
        InputError: see `load_image`.
    """
    image = load_image(path, data, most)
    chunks = {str(key): value for key, value in image.info.items() if isinstance(value, str)}
    comment = _exif_comment(image)
    return {"parameters": comment} | chunks if comment else chunks


_EXIF, _USER_COMMENT = 0x8769, 0x9286
"""The part of EXIF data, and the tag in it, that holds a comment; behind 8 bytes that name its encoding."""


def comment_exif(comment: str) -> Image.Exif:
    """EXIF data that holds a comment, as the A1111 web UI writes it."""
    exif = Image.Exif()
    exif.get_ifd(_EXIF)[_USER_COMMENT] = b"UNICODE\0" + comment.encode("utf-16-be", "replace")
    return exif


def _exif_comment(image: Image.Image) -> str:
    """The comment in an image's EXIF data; empty if there is none, or none that can be read."""
    try:
        with _quietly():
            comment = image.getexif().get_ifd(_EXIF).get(_USER_COMMENT, b"")
    except Exception:  # the data is damaged, the image need not be
        return ""
    if isinstance(comment, str):
        return comment
    encoding = "utf-16-be" if comment.startswith(b"UNICODE\0") else "utf-8"
    return comment.removeprefix(b"UNICODE\0").removeprefix(b"ASCII\0\0\0").decode(encoding, "replace")


def to_tensor(images: Sequence[Image.Image]) -> "Tensor":
    """Images of one size as (n, 3, H, W) float32 in 0..1."""
    import numpy as np
    import torch

    array = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255


def read_pixels(path: Path) -> "Tensor":
    """One image file as (3, H, W) float32 in 0..1.

    Raises:
        InputError: see `load_image`.
    """
    return to_tensor([open_image(path)])[0]


def images_in(folder: Path, listener: Listener = Listener()) -> list[Path]:
    """The image files of a folder and its subfolders, sorted, without hidden ones.

    Args:
        listener: Hears which files are left out.

    Raises:
        InputError: no such folder, or no image in it.
    """
    if not is_folder(folder):
        raise InputError(f"{folder}: no such folder of images")
    paths, left_out = sort_out(folder)
    if not paths:
        raise InputError(f"{folder}: holds no images ({', '.join(SUFFIXES)}){left_out and f'; {left_out}'}")
    if left_out:
        listener.note(f"{folder}: {left_out}")
    return paths


def sort_out(folder: Path, subfolders: bool = True) -> tuple[list[Path], str]:
    """The image files of a folder, sorted, and what is left out, such as `2 files left out: .heic, .psd`.

    Nothing is said of hidden files (those that macOS puts beside others, `._x.png`, among them), of folders and
    dangling links, and of files that belong beside images, such as captions.

    Args:
        subfolders: Whether images in them count; otherwise they are left out, which is said.
    """
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    taken = [path for path in images if subfolders or path.parent == folder]
    others = Counter(
        path.suffix.lower() or path.name
        for path in files
        if (subfolders or path.parent == folder) and path.suffix.lower() not in {*SUFFIXES, *_BESIDE_IMAGES}
    )
    said = []
    if others:
        names = [name for name, _ in others.most_common()]
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        said.append(f"{counted(others.total(), 'file')} left out: {shown}")
    if len(images) > len(taken):
        said.append(f"{counted(len(images) - len(taken), 'image')} in its subfolders left out")
    return taken, "; ".join(said)


ROUNDING = 50.0
"""dB: one level of 255 in every pixel makes 48; another batch size or machine rounds a few pixels otherwise."""


def psnr(first: Image.Image, second: Image.Image) -> float:
    """Peak signal-to-noise ratio of two images of one size, in dB; infinite if they are identical."""
    import numpy as np

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

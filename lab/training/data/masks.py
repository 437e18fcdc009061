"""Masks beside images: what their files are called, and what they are of."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lab.errors import InputError
from lab.images import load_image, read_pixels

MASK_MARKS = (".mask", "-masklabel", "_mask", "-mask")
"""What stands behind a picture's name in that of its mask: here, in OneTrainer, and in many scripts."""


@dataclass(frozen=True)
class Masks:
    """The mask files of a picture.

    Attributes:
        whole: What is learned from of all of it, if there is such a file.
        regions: Where it shows a single embedding, by the name of each that has such a file.
        sha256: Of the files' bytes, and of the names of the embeddings, or "".
    """

    whole: Path | None
    regions: Mapping[str, Path]
    sha256: str

    def weighing(self, names: Sequence[str]) -> list[Path]:
        """Those that weigh the loss together: that of the whole, or else those of all embeddings that captions name, if
        each has one (Break-A-Scene, 2305.16311, equation 1)."""
        if self.whole is not None:
            return [self.whole]
        return list(self.regions.values()) if self.regions.keys() == {*names} else []


def masks_among(files: Sequence[Path], names: Sequence[str]) -> list[tuple[str, Path]]:
    """Each image whose name says that it is a mask, with the stem of its picture's name in small letters, and behind a
    dot the name of the embedding that it is about alone."""
    stems = {path.stem.casefold() for path in files}
    stems |= {f"{stem}.{name}".casefold() for stem in stems for name in names}
    ends = [(mark, path, path.stem.casefold()) for mark in MASK_MARKS for path in files]
    return [
        (stem.removesuffix(mark), path)
        for mark, path, stem in ends
        if stem.endswith(mark) and (stem.removesuffix(mark) in stems or mark == ".mask")
    ]


def masks_astray(masks: Sequence[tuple[str, Path]], pictures: Sequence[Path], names: Sequence[str]) -> str:
    """What masks are left out, as they are of no picture there or of an embedding that is not learned from it."""
    stems = {path.stem.casefold() for path in pictures}
    stems |= {f"{stem}.{name}".casefold() for stem in stems for name in names}
    astray = [path.name for stem, path in masks if stem not in stems]
    more = ", ..." if len(astray) > 3 else ""
    return f"masks of nothing that is learned left out: {', '.join(astray[:3])}{more}" if astray else ""


def cut_out(picture: Path, mask: Path) -> Tensor:
    """(3, h, w) in 0..1: the part of a picture that a mask has at half or more, with what else is in that box."""
    box = load_image(mask).convert("L").point(lambda value: 255 * (value > 127)).getbbox()
    left, top, right, bottom = box or (0, 0, None, None)
    return read_pixels(picture)[:, top:bottom, left:right]


def read_masks(
    picture: Path, masks: Mapping[str, Path], names: Sequence[str], size: tuple[int, int]
) -> Masks:
    """The masks of a picture among many.

    Args:
        masks: By the stems of `masks_among`.
        names: The embeddings that its captions name.
        size: Of the picture, (width, height).

    Raises:
        InputError: one that is no image, or of another size.
    """
    stem = picture.stem.casefold()
    keys = {name: f"{stem}.{name}".casefold() for name in names}
    whole, regions = masks.get(stem), {name: masks[key] for name, key in keys.items() if key in masks}
    files = [*([] if whole is None else [whole]), *regions.values()]
    for file in files:
        if load_image(file).size != size:
            raise InputError(f"{file}: another size than {picture.name}")
    parts = [(b"" if whole is None else whole.read_bytes())]
    parts += [part for name, file in regions.items() for part in (name.encode(), file.read_bytes())]
    data = b"".join(parts)
    return Masks(whole, regions, hashlib.sha256(data).hexdigest() if files else "")

"""Image files to learn from: read upright, checked, assigned to a bucket, cut, with masks and captions."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lab.errors import InputError
from lab.files import is_folder
from lab.images import SUFFIXES, load_image, on_ground, sort_out
from lab.runs.run import RunFolder
from lab.training.config import TrainConfig
from lab.training.data.captions import image_captions, read_templates
from lab.training.data.masks import Masks, masks_among, masks_astray, read_masks

MAX_ASPECT = 2.0
"""The longest bucket: images beyond it are cut."""


@dataclass(frozen=True)
class Bucket:
    """A size in pixels that images are cut to, so that those of one bucket fit into one batch."""

    width: int
    height: int


def make_buckets(resolution: int, multiple: int, many: bool) -> list[Bucket]:
    """The sizes that images are cut to: a square, and with `many` all others of no larger area up to an aspect ratio of
    2 either way.

    As NovelAI's aspect-ratio bucketing does: for each width, the greatest height that the area leaves.
    """
    side = max(resolution // multiple, 1) * multiple
    square = Bucket(side, side)
    if not many:
        return [square]
    sizes = {square}
    for width in range(side, int(side * math.sqrt(MAX_ASPECT)) + 1, multiple):
        height = side * side // width // multiple * multiple
        if height and width / height <= MAX_ASPECT:
            sizes |= {Bucket(width, height), Bucket(height, width)}
    return sorted(sizes, key=lambda bucket: (bucket.width, bucket.height))


def nearest_bucket(width: int, height: int, buckets: list[Bucket]) -> Bucket:
    """The bucket nearest to an image of width x height in aspect ratio; of equally near ones the largest."""
    aspect = math.log(width / height)
    return min(
        buckets,
        key=lambda bucket: (
            round(abs(math.log(bucket.width / bucket.height) - aspect), 6),
            -bucket.width * bucket.height,
        ),
    )


SMALLEST_SHARE = 1 / 8
"""Images with a side shorter than this share of the resolution (64 px for 512 px) hold too little to learn from."""


@dataclass(frozen=True)
class Picture:
    """An image to learn from.

    Attributes:
        size: (width, height) upright, in pixels.
        sha256: Of the file's bytes.
        masks: Its mask files.
        bucket: The size that it is cut to.
        captions: Of which each example takes one.
        names: The embeddings that its captions have to name.
    """

    path: Path
    size: tuple[int, int]
    sha256: str
    masks: Masks
    bucket: Bucket
    captions: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class View:
    """One cut of a picture, which is encoded once and then learned from again and again.

    Attributes:
        picture: The picture's index.
        left, top: Where it is cut, in pixels of the picture scaled to cover the bucket.
        flipped: Whether it is mirrored.
    """

    picture: int
    bucket: Bucket
    left: int
    top: int
    flipped: bool


def read_pictures(
    config: TrainConfig, templates: Sequence[str], buckets: list[Bucket]
) -> tuple[list[Picture], list[str]]:
    """Reads the folders.

    Returns:
        The pictures by name, folder after folder, and what was left out: a line for each image that was skipped, one
        for other files.

    Raises:
        InputError: no folder, no image in it, an image that cannot be read or is too small, or a bad caption file.
    """
    lines = read_templates(templates)
    read = [_read_folder(config, folder, lines, names, buckets) for folder, names in config.folders()]
    return [picture for found, _ in read for picture in found], [line for _, left in read for line in left]


def _read_folder(
    config: TrainConfig,
    folder: Path | None,
    lines: list[str],
    names: Sequence[str],
    buckets: list[Bucket],
) -> tuple[list[Picture], list[str]]:
    files, masks, left_out = _image_files(config, folder, names)
    pictures, skipped = [], []
    for path in files:
        try:
            pictures.append(_read_picture(path, masks, config, lines, names, buckets))
        except InputError as error:
            if not config.skip_broken:
                raise InputError(f"{error}; mend it, or leave it out with --skip-broken") from None
            skipped.append(f"skipped: {error}")
    if not pictures:
        raise InputError(
            f"{folder}: none of its {len(files)} images can be used; {skipped[0].removeprefix('skipped: ')}"
        )
    return pictures, skipped + [f"{folder}: {left_out}"] * bool(left_out)


def read_captions(config: TrainConfig, templates: str) -> dict[str, tuple[str, ...]]:
    """The captions of each image of the run's own folder, by its file's name; the images are not looked into.

    Args:
        templates: The set of caption templates for when the config names none.

    Raises:
        InputError: no folder, no image in it, or a bad caption file.
    """
    _, names = config.folders()[0]
    files, _, _ = _image_files(config, config.images, names)
    lines = read_templates(config.templates or [templates])
    return {path.name: image_captions(path, config, lines, names) for path in files}


def _image_files(
    config: TrainConfig, folder: Path | None, names: Sequence[str]
) -> tuple[list[Path], dict[str, Path], str]:
    """The images of the folder, by name, their masks by `STEM` or `STEM.NAME`, and what is left out; of those that the
    run made itself, only these."""
    if folder is None:
        raise InputError("images: there are none; give a folder with --images")
    if not is_folder(folder):
        raise InputError(f"{folder}: no such folder of images; give one with --images")
    if config.worst_of is not None:
        return sorted(RunFolder(folder).finished().values()), {}, ""
    files, left_out = sort_out(folder, subfolders=False)
    masks = masks_among(files, names)
    files = [path for path in files if path not in {mask for _, mask in masks}]
    left_out = "; ".join(filter(None, [left_out, masks_astray(masks, files, names)]))
    if not files:
        also = left_out and f"; {left_out}"
        raise InputError(f"{folder}: no image in this folder; expected files of {', '.join(SUFFIXES)}{also}")
    return files, dict(reversed(masks)), left_out  # of two masks the first counts


def _read_picture(
    path: Path,
    masks: Mapping[str, Path],
    config: TrainConfig,
    templates: list[str],
    names: Sequence[str],
    buckets: list[Bucket],
) -> Picture:
    data = path.read_bytes()
    size = load_image(path, data).size
    square = min(buckets, key=lambda bucket: abs(bucket.width - bucket.height)).width
    if min(size) < square * SMALLEST_SHARE:
        raise InputError(
            f"{path}: {size[0]}x{size[1]} is too small to learn from at {square} px; "
            f"use images of at least {int(square * SMALLEST_SHARE)} px, better {square}"
        )
    return Picture(
        path,
        size,
        hashlib.sha256(data).hexdigest(),
        read_masks(path, masks, names, size),
        nearest_bucket(*size, buckets),
        image_captions(path, config, templates, names),
        tuple(names),
    )


def make_views(pictures: Sequence[Picture], config: TrainConfig) -> list[View]:
    """All views of all pictures: crops (one in the centre, or several drawn from the seed) and mirror images."""
    views = []
    for index, picture in enumerate(pictures):
        width, height = scaled_size(picture.size, picture.bucket)
        room = width - picture.bucket.width, height - picture.bucket.height
        if config.crop == "centre" or room == (0, 0):
            corners = [(room[0] // 2, room[1] // 2)]
        else:
            generator = config.generator("crops", index)
            shares = torch.rand(config.crops, 2, generator=generator).tolist()
            corners = [(round(x * room[0]), round(y * room[1])) for x, y in shares]
        for left, top in corners:
            views += [
                View(index, picture.bucket, left, top, flipped)
                for flipped in (False, True)[: 1 + config.flip]
            ]
    return views


def scaled_size(size: tuple[int, int], bucket: Bucket) -> tuple[int, int]:
    """The smallest size (width, height) of the same aspect ratio that covers the bucket, in pixels."""
    scale = max(bucket.width / size[0], bucket.height / size[1])
    return max(round(size[0] * scale), bucket.width), max(round(size[1] * scale), bucket.height)


def load_view(picture: Picture, view: View, config: TrainConfig) -> tuple[Tensor, Tensor | None]:
    """Returns pixels (3, h, w) in -1..1, and loss weights (h, w) in 0..1 or None for the same everywhere.

    Raises:
        InputError: the file has changed into something else, or its mask or alpha leaves nothing to learn.
    """
    image = load_image(picture.path)
    weight = None
    if image.has_transparency_data and config.alpha == "weight":
        weight = _as_array(_cut(image.convert("RGBA").getchannel("A"), view))
    image = on_ground(image, config.background)
    masks = picture.masks.weighing(picture.names)
    if masks:
        mask = np.maximum.reduce([_mask(path, view) for path in masks])
        weight = mask if weight is None else weight * mask
    if weight is not None and not weight.any():
        raise InputError(f"{picture.path}: its mask or transparency leaves nothing to learn from")
    pixels = torch.from_numpy(_as_array(_cut(image, view)) * 2 - 1).permute(2, 0, 1)
    return pixels, None if weight is None else torch.from_numpy(weight)


def load_regions(picture: Picture, view: View) -> dict[str, Tensor]:
    """Where a view shows each embedding that has a mask of its own, by name: (h, w) in 0..1."""
    return {name: torch.from_numpy(_mask(path, view)) for name, path in picture.masks.regions.items()}


def _mask(path: Path, view: View) -> np.ndarray:
    return _as_array(_cut(load_image(path).convert("L"), view))


def _cut(image: Image.Image, view: View) -> Image.Image:
    image = image.resize(scaled_size(image.size, view.bucket), Image.Resampling.LANCZOS)
    image = image.crop((view.left, view.top, view.left + view.bucket.width, view.top + view.bucket.height))
    return ImageOps.mirror(image) if view.flipped else image


def _as_array(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float32) / 255

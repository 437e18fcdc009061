"""Aspect-ratio buckets: the sizes that images are scaled and cut to."""

import math
from dataclasses import dataclass

from lab.models.bundle import Bundle

MAX_ASPECT = 2.0
"""The longest bucket: images beyond it are cut."""


@dataclass(frozen=True)
class Bucket:
    """A size in pixels that images are learned at."""

    width: int
    height: int


def multiple_of(bundle: Bundle) -> int:
    """Pixels that both sides must be a multiple of for the VAE and the U-Net."""
    return bundle.vae_scale * 2 ** (len(bundle.unet.config.block_out_channels) - 1)


def make_buckets(resolution: int, multiple: int, many: bool) -> list[Bucket]:
    """The square bucket, and with `many` all others of no larger area up to an aspect ratio of 2 either way.

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


def fitting(width: int, height: int, buckets: list[Bucket]) -> Bucket:
    """The bucket nearest in aspect ratio; of equally near ones the largest."""
    aspect = math.log(width / height)
    return min(
        buckets,
        key=lambda each: (
            round(abs(math.log(each.width / each.height) - aspect), 6),
            -each.width * each.height,
        ),
    )

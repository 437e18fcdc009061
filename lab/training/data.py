"""The images that a run learns from, read and checked before its first step."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import ImageColor

from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.training.buckets import make_buckets, multiple_of
from lab.training.captions import placeholder
from lab.training.config import TrainConfig
from lab.training.examples import Examples
from lab.training.latents import Latents, Progress
from lab.training.pictures import Picture, View, make_views, read_pictures
from lab.training.text import check_placeholders

CAPTIONS_SHOWN = 20


@dataclass(frozen=True)
class Data:
    """Images, their views, and which of them make up each step: a `Material`.

    Attributes:
        folder: Where the images are.
        skipped: A line for each image that was left out.
        captions: Every final caption of the run, with the name of an image that it comes with.
    """

    folder: Path
    pictures: Sequence[Picture]
    views: Sequence[View]
    examples: Examples
    latents: Latents
    skipped: Sequence[str]
    captions: Mapping[str, str]

    def fingerprint(self) -> dict[str, str]:
        """What makes each image what it is, by file name: image, mask and captions."""
        return {
            picture.path.name: " ".join([picture.sha256[:32], picture.mask_sha256[:32], *picture.captions])
            for picture in self.pictures
        }

    @property
    def images(self) -> Sequence[Path]:
        """The image files."""
        return [picture.path for picture in self.pictures]

    def describe(self) -> Iterator[str]:
        """Yields how many images there are, their buckets and captions."""
        yield f"{len(self.pictures)} images of {self.folder}, {len(self.views)} views of them"
        yield from self.skipped
        yield "buckets:"
        for bucket, count in Counter(picture.bucket for picture in self.pictures).items():
            yield f"  {bucket.width} x {bucket.height} px: {count} images"
        yield f"captions ({len(self.captions)} in all; each names what is learned):"
        for caption in list(self.captions)[:CAPTIONS_SHOWN]:
            yield f"  {caption}"
        if len(self.captions) > CAPTIONS_SHOWN:
            yield f"  ... and {len(self.captions) - CAPTIONS_SHOWN} more"

    def make_ready(self, on_progress: Progress | None = None) -> None:
        """Encodes every view."""
        self.latents.encode_all(on_progress)


def read_data(bundle: Bundle, config: TrainConfig, templates: str) -> Data:
    """Reads images and captions, and checks each final caption for its placeholders. Nothing is encoded yet.

    Args:
        templates: The set of caption templates for when the config names none.

    Raises:
        InputError: see `read_pictures` and `check_placeholders`; a colour that is none.
    """
    subjects = config.subjects()
    names = [subject.name for subject in subjects]
    _check_colour(config.background)
    buckets = make_buckets(config.resolution or bundle.defaults.width, multiple_of(bundle), config.buckets)
    pictures, skipped = read_pictures(config, config.templates or [templates], names, buckets)
    views = make_views(pictures, config)
    marks = [placeholder(name) for name in names]
    examples = Examples(
        pictures, views, config, marks, bundle.scheduler_config.get("num_train_timesteps", 1000)
    )
    captions = {
        caption: pictures[index].path.name for caption, index in examples.captions(config.steps).items()
    }
    check_placeholders(bundle, captions.items(), {subject.name: subject.vectors for subject in subjects})
    assert config.images is not None
    return Data(
        config.images, pictures, views, examples, Latents(bundle, pictures, views, config), skipped, captions
    )


def _check_colour(text: str) -> None:
    try:
        ImageColor.getrgb(text)
    except ValueError:
        raise InputError(
            f"background: '{text}' is no colour; write a name such as white, or #rrggbb"
        ) from None

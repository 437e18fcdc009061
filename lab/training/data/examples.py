"""Which examples make up each step: order, captions, timesteps and noise, as functions of seed, step and slot."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from PIL import ImageColor
from torch import Tensor

from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.training.config import TrainConfig
from lab.training.data.captions import check_placeholders, placeholder, vary
from lab.training.data.latents import Latents, Progress
from lab.training.data.pictures import Picture, View, make_buckets, make_views, multiple_of, read_pictures
from lab.training.streams import stream

FIXED = -1
"""The step whose examples are the fixed ones."""


@dataclass(frozen=True)
class Example:
    """One place in a step's batch.

    Attributes:
        view: Index of the view.
        timestep: Of the noise schedule.
        step, slot: Where it stands in the run, which decides its noise.
    """

    view: int
    caption: str
    timestep: int
    step: int
    slot: int


class Examples:
    """The examples of every step. Pictures come in shuffled epochs; a batch has pictures of one bucket."""

    def __init__(
        self,
        pictures: Sequence[Picture],
        views: Sequence[View],
        config: TrainConfig,
        marks: Sequence[str],
        timesteps: int,
    ):
        self._pictures = pictures
        self._config = config
        self._marks = marks
        low, high = config.timesteps or (0, timesteps)
        self._low, self._high = low, min(high, timesteps)
        self._views_of = defaultdict(list)
        for index, view in enumerate(views):
            self._views_of[view.picture].append(index)
        self._buckets = defaultdict(list)
        for index, picture in enumerate(pictures):
            self._buckets[picture.bucket].append(index)
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)
        self._steps_per_epoch = len(self._make_epoch(0))

    def batch(self, step: int) -> list[Example]:
        """The examples of a step, counted from 0, over all processes."""
        chosen = self._chosen(step)
        return [self._example(picture, step, slot, len(chosen)) for slot, picture in enumerate(chosen)]

    def fixed(self) -> list[Example]:
        """The examples on which progress is measured, the same at every step (DVAR, 2302.04841, section 4)."""
        chosen = self._fixed_pictures()
        return [self._example(picture, FIXED, slot, len(chosen)) for slot, picture in enumerate(chosen)]

    def noise(self, example: Example, shape: tuple[int, ...]) -> Tensor:
        """Standard normal noise that belongs to an example, float32 on the CPU."""
        return torch.randn(shape, generator=stream(self._config.seed, "noise", example.step, example.slot))

    def captions(self, steps: int) -> dict[str, int]:
        """Every final caption of a run, with the picture that it first comes with."""
        found: dict[str, int] = {}
        if not (self._config.shuffle_tags or self._config.tag_dropout):
            return {
                caption: index for index, picture in enumerate(self._pictures) for caption in picture.captions
            }
        for step in range(FIXED, steps):
            chosen = self._fixed_pictures() if step == FIXED else self._chosen(step)
            for slot, picture in enumerate(chosen):
                found.setdefault(self._draw(picture, stream(self._config.seed, step, slot))[1], picture)
        return found

    def _chosen(self, step: int) -> list[int]:
        epoch, place = divmod(step, self._steps_per_epoch)
        return self._epoch(epoch)[place]

    def _fixed_pictures(self) -> list[int]:
        count, pictures = self._config.evaluate_on, len(self._pictures)
        return [slot % pictures if pictures <= count else slot * pictures // count for slot in range(count)]

    def _example(self, picture: int, step: int, slot: int, count: int) -> Example:
        generator = stream(self._config.seed, step, slot)
        view, caption = self._draw(picture, generator)
        # Spread over the batch (stratified), timesteps make a batch's gradient less noisy than independent ones do.
        share = (slot + torch.rand((), generator=generator).item()) / count
        timestep = min(self._low + int(share * (self._high - self._low)), self._high - 1)
        return Example(view, caption, timestep, step, slot)

    def _draw(self, picture: int, generator: torch.Generator) -> tuple[int, str]:
        views, captions = self._views_of[picture], self._pictures[picture].captions
        view, caption = torch.randint(2**31, (2,), generator=generator).tolist()
        text = vary(captions[caption % len(captions)], self._config, self._marks, generator)
        return views[view % len(views)], text

    def _make_epoch(self, epoch: int) -> list[list[int]]:
        """Batches of picture indices: every picture once, the last batch of a bucket filled up from its start."""
        generator, size = stream(self._config.seed, "epoch", epoch), self._config.batch_size
        batches = []
        for members in self._buckets.values():
            order = [members[place] for place in torch.randperm(len(members), generator=generator).tolist()]
            for start in range(0, len(order), size):
                batches.append([order[(start + slot) % len(order)] for slot in range(size)])
        return [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]


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

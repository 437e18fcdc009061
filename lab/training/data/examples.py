"""Which images, captions, timesteps and noise make up each step: functions of seed, step and slot."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from PIL import ImageColor
from torch import Tensor

from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.models.device import to_device
from lab.text import counted
from lab.training.config import TrainConfig
from lab.training.data.captions import vary_tags
from lab.training.data.latents import REGION, Latents
from lab.training.data.pictures import (
    Picture,
    View,
    make_buckets,
    make_views,
    read_pictures,
)

FIXED = -1
"""The step whose examples are the fixed ones."""


@dataclass(frozen=True)
class Example:
    """One image with a caption in a step's batch.

    Attributes:
        view: The index of the view of a picture.
        timestep: Of the noise schedule that the model was trained with.
        step, slot: The step, from 0, and the place in its batch: they decide its noise.
    """

    view: int
    caption: str
    timestep: int
    step: int
    slot: int


class ExampleOrder:
    """Which examples make up each step: pictures in shuffled epochs, those of a batch all of one bucket."""

    def __init__(
        self,
        pictures: Sequence[Picture],
        views: Sequence[View],
        config: TrainConfig,
        names: Sequence[str],
        timesteps: int,
    ):
        """Orders the examples of a run.

        Args:
            names: Of the embeddings that captions name, whose tags are never dropped.
            timesteps: The number that the model was trained with.
        """
        self._pictures = pictures
        self._config = config
        self._names = names
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
        chosen = self._pictures_of(step)
        return [self._example(picture, step, slot, len(chosen)) for slot, picture in enumerate(chosen)]

    def fixed(self) -> list[Example]:
        """The examples on which progress is measured, the same at every step (DVAR, 2302.04841, section 4)."""
        chosen = self._fixed_pictures()
        return [self._example(picture, FIXED, slot, len(chosen)) for slot, picture in enumerate(chosen)]

    def noise(self, example: Example, shape: tuple[int, ...]) -> Tensor:
        """Standard normal noise of a shape that belongs to an example, float32 on the CPU."""
        return torch.randn(shape, generator=self._config.generator("noise", example.step, example.slot))

    def captions(self, steps: int) -> dict[str, int]:
        """Every final caption of a run of this many steps, with the index of the picture that it first comes with."""
        found: dict[str, int] = {}
        if not (self._config.shuffle_tags or self._config.tag_dropout):
            return {
                caption: index for index, picture in enumerate(self._pictures) for caption in picture.captions
            }
        for step in range(FIXED, steps):
            chosen = self._fixed_pictures() if step == FIXED else self._pictures_of(step)
            for slot, picture in enumerate(chosen):
                found.setdefault(self._draw(picture, self._config.generator(step, slot))[1], picture)
        return found

    def _pictures_of(self, step: int) -> list[int]:
        epoch, place = divmod(step, self._steps_per_epoch)
        return self._epoch(epoch)[place]

    def _fixed_pictures(self) -> list[int]:
        count, pictures = self._config.evaluate_on, len(self._pictures)
        return [slot % pictures if pictures <= count else slot * pictures // count for slot in range(count)]

    def _example(self, picture: int, step: int, slot: int, count: int) -> Example:
        generator = self._config.generator(step, slot)
        view, caption = self._draw(picture, generator)
        # Spread over the batch (stratified), timesteps make a batch's gradient less noisy than independent ones do.
        share = (slot + torch.rand((), generator=generator).item()) / count
        timestep = min(self._low + int(share * (self._high - self._low)), self._high - 1)
        return Example(view, caption, timestep, step, slot)

    def _draw(self, picture: int, generator: torch.Generator) -> tuple[int, str]:
        views, captions = self._views_of[picture], self._pictures[picture].captions
        view, caption = torch.randint(2**31, (2,), generator=generator).tolist()
        text = vary_tags(captions[caption % len(captions)], self._config, self._names, generator)
        return views[view % len(views)], text

    def _make_epoch(self, epoch: int) -> list[list[int]]:
        """Batches of picture indices: every picture once, the last batch of a bucket filled up from its start."""
        generator, size = self._config.generator("epoch", epoch), self._config.batch_size
        batches = []
        for members in self._buckets.values():
            order = [members[place] for place in torch.randperm(len(members), generator=generator).tolist()]
            for start in range(0, len(order), size):
                batches.append([order[(start + slot) % len(order)] for slot in range(size)])
        return [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]


CAPTIONS_SHOWN = 20
"""Captions that a dry run tells."""


@dataclass(frozen=True)
class ImageBatch:
    """Examples of one bucket, ready for a forward pass.

    Attributes:
        latents, noise: (b, c, h, w) float32 on the bundle's device, in the U-Net's scale.
        weights: (b, 1, h, w) loss weights of mean 1 in each image, or None for the same everywhere.
        timesteps: (b,).
        time_ids: (b, 6) SDXL's micro-conditioning in pixels, height first: the image's size, where it was cut, the
            bucket's size (2307.01952, section 2.2).
    """

    examples: Sequence[Example]
    latents: Tensor
    noise: Tensor
    weights: Tensor | None
    timesteps: Tensor
    captions: Sequence[str]
    time_ids: Tensor


class ImageData:
    """A folder of images to learn from: its pictures, their views, and which of them make up each step.

    Attributes:
        skipped: A line for each image that was left out.
        captions: Every final caption of the run, with the name of an image that it comes with.
    """

    def __init__(self, bundle: Bundle, config: TrainConfig, templates: str):
        """Reads and checks images and captions; encodes nothing yet.

        Args:
            templates: The set of caption templates for when the config names none.

        Raises:
            InputError: see `read_pictures`; a background that is no colour.
        """
        _check_colour(config.background)
        names = [subject.name for subject in config.subjects()]
        buckets = make_buckets(
            config.resolution or bundle.defaults.width, bundle.facts.size_multiple, config.buckets
        )
        self._device = bundle.device
        self.pictures, self.skipped = read_pictures(config, config.templates or [templates], buckets)
        self.views = make_views(self.pictures, config)
        timesteps = bundle.scheduler_config.get("num_train_timesteps", 1000)
        self.order = ExampleOrder(self.pictures, self.views, config, names, timesteps)
        self.latents = Latents(bundle, self.pictures, self.views, config)
        self._first = {
            caption: self.pictures[index] for caption, index in self.order.captions(config.steps).items()
        }
        self.captions = {caption: picture.path.name for caption, picture in self._first.items()}

    @property
    def images(self) -> Sequence[Path]:
        """The image files."""
        return [picture.path for picture in self.pictures]

    def captions_by_names(self) -> dict[tuple[str, ...], list[tuple[str, str]]]:
        """The captions, each with its image's name, by the embeddings that they have to name."""
        found = defaultdict(list)
        for caption, picture in self._first.items():
            found[picture.names].append((caption, picture.path.name))
        return found

    def fingerprint(self) -> dict[str, str]:
        """What makes each image what it is, by file name (with the embedding's, in other folders than the first):
        image, mask and captions."""
        first = self.pictures[0].path.parent

        def key(picture: Picture) -> str:
            name = picture.path.name
            return name if picture.path.parent == first else f"{picture.names[0]}/{name}"

        return {
            key(picture): " ".join([picture.sha256[:32], picture.masks.sha256[:32], *picture.captions])
            for picture in self.pictures
        }

    def describe(self) -> Iterator[str]:
        """Yields lines for people: how many images there are, their buckets and captions."""
        images, views = counted(len(self.pictures), "image"), counted(len(self.views), "view")
        folders = dict.fromkeys(str(path.parent) for path in self.images)
        yield f"{images} of {', '.join(folders)}, {views} of them"
        yield from self.skipped
        yield "buckets:"
        for bucket, count in Counter(picture.bucket for picture in self.pictures).items():
            yield f"  {bucket.width} x {bucket.height} px: {counted(count, 'image')}"
        masked = [name for picture in self.pictures for name in picture.masks.regions]
        masked += ["the whole" for picture in self.pictures if picture.masks.whole is not None]
        if masked:
            yield f"masks: {', '.join(f'{count} of {what}' for what, count in Counter(masked).items())}"
        yield f"captions ({len(self.captions)} in all; each names what is learned):"
        for caption in list(self.captions)[:CAPTIONS_SHOWN]:
            yield f"  {caption}"
        if len(self.captions) > CAPTIONS_SHOWN:
            yield f"  ... and {len(self.captions) - CAPTIONS_SHOWN} more"

    def load(self, examples: Sequence[Example]) -> ImageBatch:
        """What the examples of one bucket are made of: latents drawn from the VAE's posterior, and their noise."""
        entries = [self.latents.get(example.view) for example in examples]
        mean, std = (torch.stack([entry[key] for entry in entries]) for key in ("mean", "std"))
        shape = (2, *mean.shape[1:])  # for the sample of the posterior, and for the noise
        drawn = torch.stack([self.order.noise(example, shape) for example in examples])
        sample, noise = to_device(drawn, self._device).unbind(dim=1)
        weights = None
        if any("weight" in entry for entry in entries):
            maps = [entry.get("weight", torch.ones_like(mean[0, 0])) for entry in entries]
            weights = torch.stack(maps)[:, None]
            weights = weights / weights.mean(dim=(1, 2, 3), keepdim=True)
        timesteps = to_device(torch.tensor([example.timestep for example in examples]), self._device)
        time_ids = to_device(torch.tensor([self._time_ids(example) for example in examples]), self._device)
        captions = [example.caption for example in examples]
        return ImageBatch(examples, mean + std * sample, noise, weights, timesteps, captions, time_ids)

    def masks(self, example: Example) -> dict[str, Tensor]:
        """Where an example's image shows what its captions name, as far as masks say it: (h, w) in 0..1 by name, of the
        size of the latents."""
        entry, names = self.latents.get(example.view), self.pictures[self.views[example.view].picture].names
        found = {name: entry.get(f"{REGION}{name}", entry.get("weight")) for name in names}
        return {name: mask for name, mask in found.items() if mask is not None}

    def _time_ids(self, example: Example) -> tuple[int, ...]:
        view = self.views[example.view]
        width, height = self.pictures[view.picture].size
        return (height, width, view.top, view.left, view.bucket.height, view.bucket.width)


def _check_colour(text: str) -> None:
    try:
        ImageColor.getrgb(text)
    except ValueError:
        raise InputError(
            f"background: '{text}' is no colour; write a name such as white, or #rrggbb"
        ) from None

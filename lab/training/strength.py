"""How strong a slider is at each weight: where images stand between its two prompts, and what else changes in them.

    f      features of an image (CLIP's, or pixels without one)
    axis   f(end) - f(start), of the images of both prompts on the same noise
    place  ((f - f(neutral)) . axis) / |axis|^2
    rest   |f - f(neutral) - place axis| / |axis|

Equal steps of weight are not equal steps in images: weights are told at which places are evenly apart, and the one at
which the place stops growing (FreeSliders, 2511.00103, section 4).
"""

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from lab.embeddings.embedding import Embedding
from lab.embeddings.library import collect
from lab.images import to_tensor
from lab.models.bundle import Bundle
from lab.prompt.dialects import find_dialect
from lab.sample.generate import generate
from lab.score.clip import Clip, open_clip
from lab.training.config import TrainConfig
from lab.training.data.captions import placeholder
from lab.training.data.sides import Side

GRID = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""Weights at which images are made."""

DIALECTS = ("a1111", "comfy")
"""Dialects whose weights are measured; compel's are ComfyUI's above 1, and fade words out below."""

STEPS = 5
"""How many weights are told, from nothing to the strongest."""

FULL = 0.95
"""The share of the whole way at which a slider counts as saturated."""


class Strength(NamedTuple):
    """What weights do in one dialect.

    Attributes:
        weights: In ascending order.
        places: Mean place of the images at each; 0 where the neutral prompt's are, 1 a whole axis farther.
        rests: What else changes, likewise, in lengths of the axis.
    """

    weights: tuple[float, ...]
    places: tuple[float, ...]
    rests: tuple[float, ...]

    def even(self, count: int = STEPS) -> list[float]:
        """So many weights whose places are evenly apart, from weight 0 to the farthest place."""
        risen = list(accumulate(self.places, max))
        return [
            self._weight_at(risen, risen[0] + (risen[-1] - risen[0]) * n / (count - 1)) for n in range(count)
        ]

    @property
    def saturation(self) -> float:
        """The weight at which `FULL` of the way is done; more changes other things."""
        risen = list(accumulate(self.places, max))
        return self._weight_at(risen, risen[0] + FULL * (risen[-1] - risen[0]))

    def _weight_at(self, risen: Sequence[float], place: float) -> float:
        for number in range(1, len(risen)):
            low, high = risen[number - 1], risen[number]
            if place <= high and high > low:
                share = max((place - low) / (high - low), 0.0)
                return round(
                    self.weights[number - 1] + share * (self.weights[number] - self.weights[number - 1]), 3
                )
        return self.weights[0]

    def describe(self) -> str:
        """Equal steps and saturation, for people."""
        steps = ", ".join(f"{weight:.2g}" for weight in self.even())
        return (
            f"steps that look equal are at weights {steps}, and from {self.saturation:.2g} on little is added"
        )

    def to_json(self) -> str:
        """All numbers, for a file's metadata."""
        numbers = {name: [round(value, 3) for value in values] for name, values in self._asdict().items()}
        return json.dumps(numbers | {"even": self.even(), "saturation": self.saturation})


def measure_strength(
    bundle: Bundle,
    config: TrainConfig,
    sides: Sequence[Side],
    slider: Embedding,
    embeddings: Mapping[str, Embedding],
    count: int,
) -> dict[str, Strength]:
    """Makes `count` images at each weight and tells how far they are on the way, by dialect.

    Args:
        sides: The slider's prompts; each image takes the next.
        embeddings: Others that these name.

    Raises:
        InputError: settings that the model cannot serve.
    """
    clip = open_clip(bundle, config.clip)
    chosen = [sides[number % len(sides)] for number in range(count)]
    library = collect(embeddings, [slider])

    def look(prompts: Sequence[str], dialect: str) -> Tensor:
        """(len(prompts) / count, count, f): features of images; prompt n has the noise of n modulo count."""
        made = []
        for number in range(count):
            results = generate(
                bundle, prompt=list(prompts[number::count]), seeds=[config.seed + number], dialect=dialect,
                clip_skip=config.clip_skip, steps=config.sampling_steps, guidance=config.guidance,
                scheduler=config.scheduler, embeddings=library,
            )  # fmt: skip
            made.append(_features(clip, to_tensor([result.image for result in results])))
        return torch.stack(made, dim=1)

    ends = look([side[form] for form in range(3) for side in chosen], "plain")
    found = {}
    for dialect in DIALECTS:
        prompts = [
            f"{side.neutral} {written(slider.name, weight, dialect)}" for weight in GRID for side in chosen
        ]
        places, rests = place_images(look(prompts, dialect), *ends)
        found[dialect] = Strength(GRID, tuple(places.mean(dim=1).tolist()), tuple(rests.mean(dim=1).tolist()))
    return found


def written(name: str, weight: float, dialect: str) -> str:
    """How a dialect that has weights writes an embedding with one."""
    emphasis = find_dialect(dialect).emphasis
    assert emphasis is not None, "none is asked for that has no weights"
    return placeholder(name) if weight == 1 else emphasis.format(text=placeholder(name), weight=weight)


def place_images(made: Tensor, neutral: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """(..., n) places of images and the rest of what changes in them; see the module.

    Args:
        made: (..., n, f) features of images.
        neutral, start, end: (n, f), of the three prompts' images on the same noise.
    """
    axis = end - start
    size = axis.square().sum(dim=-1).clamp_min(1e-12)
    change = made - neutral
    places = (change * axis).sum(dim=-1) / size
    rests = (change - places[..., None] * axis).square().sum(dim=-1)
    return places, (rests / size).sqrt()


@torch.no_grad()
def _features(clip: Clip | None, pixels: Tensor) -> Tensor:
    return pixels.flatten(1) if clip is None else clip.images(pixels)

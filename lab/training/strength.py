"""How strong a slider is at each weight: where images stand between its two prompts, and what else changes in them.

    f      features of an image (CLIP's, or pixels without one)
    axis   f(end) - f(start), of the images of both prompts on the same noise
    place  ((f - f(neutral)) . axis) / |axis|^2
    rest   |f - f(neutral) - place axis| / |axis|

Equal steps of weight are not equal steps in images: weights are told at which places are evenly apart, and the one at
which the place stops growing (FreeSliders, 2511.00103, section 4).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from lab.condition.conditioning import Conditioning, level_parts
from lab.condition.config import TextOptions
from lab.condition.prompt_encoder import PromptEncoder
from lab.embeddings.embedding import Embedding
from lab.embeddings.library import collect
from lab.images import to_tensor
from lab.models.bundle import Bundle
from lab.prompt.dialects import find_dialect
from lab.sample.config import Request
from lab.sample.engine import run_jobs
from lab.sample.plan import plan
from lab.score.clip import open_clip
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

    def with_more(self, other: "Strength") -> "Strength":
        """What is known of these weights and of others."""
        points = sorted([*zip(*self, strict=True), *zip(*other, strict=True)])
        return Strength(*zip(*points, strict=True))

    def even(self, count: int = STEPS) -> list[float]:
        """So many weights whose places are evenly apart, from the first to saturation."""
        return [self.weight_at(n / (count - 1)) for n in range(count)]

    @property
    def saturation(self) -> float:
        """The weight at which `FULL` of the way is done that any weight does; more changes other things."""
        return self.weight_at(1)

    def weight_at(self, share: float) -> float:
        """The weight at which a share of the way to saturation is done, between those measured on straight lines."""
        risen = list(accumulate(self.places, max))
        place = risen[0] + share * FULL * (risen[-1] - risen[0])
        for number in range(1, len(risen)):
            low, high = risen[number - 1], risen[number]
            if low < high and risen[0] < place <= high:
                before, after = self.weights[number - 1 : number + 1]
                return round(before + (place - low) / (high - low) * (after - before), 3)
        return self.weights[0]

    def describe(self) -> str:
        """Equal steps and saturation, for people."""
        if not self.saturation:
            return "no weight leads images from one prompt towards the other"
        steps = ", ".join(f"{weight:.2g}" for weight in self.even())
        return (
            f"steps that look equal are at weights {steps}, and from {self.saturation:.2g} on little is added"
        )

    def to_json(self) -> str:
        """All numbers, for a file's metadata."""
        numbers = {name: [round(value, 3) for value in values] for name, values in self._asdict().items()}
        found = numbers | {"even": self.even(), "saturation": self.saturation}
        return json.dumps(found, separators=(",", ":"))


class Yardstick:
    """Makes images on the same noise again and again, and tells how far they are from one prompt to the other."""

    def __init__(
        self,
        bundle: Bundle,
        config: TrainConfig,
        sides: Sequence[Side],
        embeddings: Mapping[str, Embedding],
        count: int,
    ):
        """Makes the images of the prompts themselves.

        Args:
            sides: The slider's prompts; each of `count` images takes the next.
            embeddings: Others that these name.

        Raises:
            InputError: settings that the model cannot serve.
        """
        self._bundle, self._config, self._clip = bundle, config, open_clip(bundle, config.clip)
        self._embeddings = dict(embeddings)
        self._sides = [sides[number % len(sides)] for number in range(count)]
        self._ends = self._look([side[form] for form in range(3) for side in self._sides], "plain", {})

    def of_directions(self) -> Strength:
        """The strength of the prompts' direction itself, which guidance adds to the neutral prompt without anything
        learned (FreeSliders, equation 5): how often it is added takes the weight's place."""
        texts = list(dict.fromkeys(text for side in self._sides for text in side))
        options = TextOptions(dialect="plain", clip_skip=self._config.clip_skip)
        encoded = PromptEncoder(self._bundle, self._embeddings, options, 1).encode(texts)

        def composed(side: Side, weight: float) -> Conditioning:
            shares = {side.neutral: 1.0, side.end: weight, side.start: -weight}
            parts = [replace(encoded[text].parts[0], weight=share) for text, share in shares.items()]
            return Conditioning(f"{side.start} -> {side.end} x {weight:g}", level_parts(parts))

        return self._strength(
            lambda side, weight: composed(side, weight) if weight else side.neutral, "plain", {}
        )

    def of_slider(self, slider: Embedding, dialect: str) -> Strength:
        """The strength of a slider by its weight in a dialect."""
        return self._strength(
            lambda side, weight: f"{side.neutral} {written(slider.name, weight, dialect)}",
            dialect,
            {slider.name: slider},
        )

    def _strength(
        self,
        prompt: Callable[[Side, float], str | Conditioning],
        dialect: str,
        more: Mapping[str, Embedding],
    ) -> Strength:
        """The strength of what a prompt has at each weight: on the grid, and again where its steps would be even, as
        images may turn at once between two weights of the grid."""
        strength, waiting = Strength((), (), ()), list(GRID)
        while waiting:
            prompts = [prompt(side, weight) for weight in waiting for side in self._sides]
            places, rests = place_images(self._look(prompts, dialect, more), *self._ends)
            found = Strength(
                tuple(waiting), tuple(places.mean(dim=1).tolist()), tuple(rests.mean(dim=1).tolist())
            )
            first = not strength.weights
            strength = strength.with_more(found)
            waiting = sorted({*strength.even()} - {*strength.weights}) if first else []
        return strength

    @torch.no_grad()
    def _look(
        self, prompts: Sequence[str | Conditioning], dialect: str, more: Mapping[str, Embedding]
    ) -> Tensor:
        """(prompts / n, n, f): features of images; prompt k has the noise of k modulo the number n of images."""
        count, config = len(self._sides), self._config
        options = config.sampling(config.resolution, dialect=dialect, clip_skip=config.clip_skip)
        asked = [
            Request(place, prompt, None, config.seed + place % count, options)
            for place, prompt in enumerate(prompts)
        ]
        jobs = plan(self._bundle, asked, collect(self._embeddings, more))
        samples = run_jobs(self._bundle, jobs)
        pixels = to_tensor([one.image for one in sorted(samples, key=lambda one: one.job.index)])
        features = pixels.flatten(1) if self._clip is None else self._clip.images(pixels)
        return features.unflatten(0, (-1, count))


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

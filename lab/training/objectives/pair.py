"""The pair objective: a positive and a negative embedding learned together, through guidance.

As DreamArtist (2211.11337, section 3.2) does it: the error is that of the prediction that guidance composes of both
sides, u + s (c - u), so that each half learns what the other leaves over.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lab.embeddings.read import NEGATIVE_SUFFIX
from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.sample.guidance import guide
from lab.training.config import Subject, TrainConfig
from lab.training.data.captions import check_placeholders, fill, read_templates
from lab.training.data.examples import Data, Example, read_data
from lab.training.estimate import Work
from lab.training.objectives.denoising import Denoising
from lab.training.streams import stream
from lab.training.vectors import Learned

USUAL_GUIDANCE = 5.0
"""DreamArtist's, where the config says nothing; the models' own scales are for whole prompts."""


class Pair(Denoising):
    """Denoising with the composed prediction of a caption and a negative caption."""

    def __init__(self, bundle: Bundle, config: TrainConfig, data: Data, learned: Learned):
        super().__init__(bundle, config, data, learned)
        self._seed = config.seed
        self._scale = config.guidance or USUAL_GUIDANCE
        self._negatives = negative_captions(config)

    def predict(self, noisy: Tensor, timesteps: Tensor, examples: Sequence[Example]) -> Tensor:
        """(b, c, h, w) float32: u + s (c - u) of the negative captions u and the captions c, in one batch."""
        captions = [self._negative(example) for example in examples] + [each.caption for each in examples]
        both = self._run(noisy.repeat(2, 1, 1, 1), timesteps.repeat(2), [*examples, *examples], captions)
        unconditional, conditional = both.chunk(2)
        scale = torch.full((len(examples),), self._scale, device=noisy.device)
        return guide(unconditional, [conditional], torch.ones_like(scale)[None], scale)

    def _negative(self, example: Example) -> str:
        generator = stream(self._seed, "negative", example.step, example.slot)
        return self._negatives[int(torch.randint(len(self._negatives), (), generator=generator))]


def negative_half(config: TrainConfig) -> list[Subject]:
    """The negative embedding that a pair brings along."""
    return [
        Subject(
            name=f"{config.name}{NEGATIVE_SUFFIX}",
            objective="negative",
            vectors=config.negative_vectors,
            init=config.negative_init,
            learning_rate=config.negative_rate,
        )
    ]


def negative_captions(config: TrainConfig) -> list[str]:
    """What stands in the negative prompt, of which each example takes one."""
    (half,) = negative_half(config)
    return [fill(line, "", [half.name]) for line in read_templates(config.negative_templates)]


def read_pair_data(bundle: Bundle, config: TrainConfig) -> Data:
    """The images, with the templates of things; the negative captions are checked as well.

    Raises:
        InputError: as `read_data`; a negative caption without the negative half; more than one pair at a time.
    """
    if config.more:
        raise InputError("more: a pair is learned by itself; leave the other embeddings out")
    (half,) = negative_half(config)
    captions = [(caption, "negative_templates") for caption in negative_captions(config)]
    check_placeholders(bundle, captions, {half.name: half.vectors})
    return read_data(bundle, config, templates="object")


def work(bundle: Bundle, config: TrainConfig) -> Work:
    """Both sides of guidance."""
    return Work(rows=2, learned=2, kept=2)

"""The pair objective: a positive and a negative embedding learned together, through guidance.

As DreamArtist (2211.11337, section 3.2) does it: the error is that of the prediction that guidance composes of both
sides, u + s (c - u), so that each half learns what the other leaves over.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from lab.embeddings.embedding import NEGATIVE_SUFFIX, Embedding
from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.sample.guidance import apply_guidance
from lab.training.config import Subject, TrainConfig
from lab.training.data.captions import check_placeholders, fill_template, read_templates
from lab.training.data.examples import Example, ImageBatch
from lab.training.objectives.denoising import Denoising
from lab.training.objectives.objective import Cost

USUAL_GUIDANCE = 5.0
"""DreamArtist's, where the config says nothing; the models' own scales are for whole prompts."""


class Pair(Denoising):
    """A thing and its negative: denoising with the composed prediction of a caption and a negative caption."""

    def __init__(self, bundle: Bundle, config: TrainConfig, embeddings: Mapping[str, Embedding]):
        if config.more:
            raise InputError("more: a pair is learned by itself; leave the other embeddings out")
        half, templates = self.partner(config), read_templates(config.negative_templates)
        self.negative_captions = [fill_template(line, "", [half.name]) for line in templates]
        self._guidance = config.guidance or USUAL_GUIDANCE
        super().__init__(bundle, config, embeddings)
        negatives = [(caption, "negative_templates") for caption in self.negative_captions]
        check_placeholders(bundle, negatives, {half.name: half.vectors}, self._others)

    @classmethod
    def partner(cls, config: TrainConfig) -> Subject:
        """The negative half."""
        return Subject(
            name=f"{config.name}{NEGATIVE_SUFFIX}",
            objective="negative",
            vectors=config.negative_vectors,
            init=config.negative_init,
            learning_rate=config.negative_rate,
        )

    @classmethod
    def cost(cls, bundle: Bundle, config: TrainConfig) -> Cost:
        """Both sides of guidance."""
        return Cost(rows=2, rows_back=2, rows_kept=2)

    def predict(self, noisy: Tensor, batch: ImageBatch) -> Tensor:
        """(b, c, h, w) float32: u + s (c - u) of the negative captions u and the captions c, in one batch."""
        captions = [self._negative_caption(example) for example in batch.examples] + list(batch.captions)
        both = self._call_unet(
            noisy.repeat(2, 1, 1, 1), batch.timesteps.repeat(2), captions, batch.time_ids.repeat(2, 1)
        )
        unconditional, conditional = both.chunk(2)
        scale = torch.full((len(noisy),), self._guidance, device=noisy.device)
        return apply_guidance(unconditional, [conditional], scale[None])

    def _negative_caption(self, example: Example) -> str:
        generator = self.config.generator("negative", example.step, example.slot)
        return self.negative_captions[
            int(torch.randint(len(self.negative_captions), (), generator=generator))
        ]

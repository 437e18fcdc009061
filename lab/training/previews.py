"""Previews: what the vectors do, with the same seeds every time, made by the code that generates for everyone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lab.embeddings.embedding import Embedding, Kind
from lab.images import to_tensor
from lab.models.bundle import Bundle
from lab.sample.config import parse_seeds
from lab.sample.generate import generate
from lab.sample.record import save_result
from lab.sample.results import Result
from lab.score.clip import Clip, image_features
from lab.text import read_lines
from lab.training.config import TrainConfig
from lab.training.data.captions import placeholder

PROMPTS_SHOWN = 2
"""Of the prompt file of a run that learns nothing but negative embeddings."""


class Previews:
    """Generates with the vectors as they are, and says how like the training images the results are."""

    def __init__(
        self,
        bundle: Bundle,
        config: TrainConfig,
        kinds: Mapping[str, Kind],
        folder: Path,
        images: Sequence[Path],
        clip: Clip | None,
    ):
        """Takes what each embedding is to become: negative ones go into the negative prompt."""
        self._bundle = bundle
        self._config = config
        self._folder = folder
        self._images = images
        self._clip = clip
        self._shown: Tensor | None = None
        named, avoided = (
            [placeholder(name) for name, kind in kinds.items() if (kind == "negative") == negative]
            for negative in (False, True)
        )
        self._prompts = config.preview_prompt or _usual_prompts(config, named)
        self._negative = ", ".join([text for text in (config.preview_negative, *avoided) if text])

    def due(self, step: int, last: int) -> bool:
        """Whether previews are made after this step."""
        every = self._config.preview_every
        return every > 0 and (step % every == 0 or step == last)

    def make(self, step: int, embeddings: Sequence[Embedding]) -> float | None:
        """Writes the previews of a step; returns their mean CLIP cosine to the training images, if there are any."""
        results = generate(
            self._bundle,
            prompt=self._prompts,
            negative_prompt=self._negative or None,
            seeds=self._config.preview_seeds,
            steps=self._config.preview_steps,
            guidance=self._config.guidance,
            scheduler=self._config.scheduler,
            embeddings=embeddings,
        )
        per_prompt = len(parse_seeds(self._config.preview_seeds))
        for result in results:
            number, seed = result.index // per_prompt + 1, result.record["seed"]
            save_result(
                self._folder / f"{step:06d}-prompt{number}-seed{seed}.png", result.image, result.record
            )
        return self._similarity(results)

    def _similarity(self, results: Sequence[Result]) -> float | None:
        if self._clip is None or not self._images:
            return None
        if self._shown is None:
            self._shown = image_features(self._clip, self._images)
        with torch.no_grad():
            made = self._clip.images(to_tensor([result.image for result in results]))
        return float((made @ self._shown.T).mean())


def _usual_prompts(config: TrainConfig, named: Sequence[str]) -> list[str]:
    """The embeddings alone, or else the first prompts of the run's file, or else nothing."""
    if named:
        return [", ".join(named)]
    return read_lines(config.prompt_file)[:PROMPTS_SHOWN] if config.prompt_file else [""]

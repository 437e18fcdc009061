"""Previews: what the vectors do, with the same seeds every time, made by the code that generates for everyone."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lab.embeddings.embedding import Embedding
from lab.embeddings.library import collect
from lab.images import to_tensor
from lab.sample.config import parse_seeds
from lab.sample.generate import Result, generate
from lab.sample.record import save_result
from lab.score.clip import image_features
from lab.text import read_lines
from lab.training.config import TrainConfig
from lab.training.data.captions import placeholder
from lab.training.prepare import Run

PROMPTS_SHOWN = 2
"""Of the prompt file of a run that learns nothing but negative embeddings."""


class Previews:
    """Generates with the vectors as they are, and says how like the training images the results are."""

    def __init__(self, run: Run):
        """Chooses what is shown: negative embeddings go into the negative prompt."""
        self._run = run
        self._config = run.config
        self._features: Tensor | None = None
        kinds = {name: beginning.kind for name, beginning in run.learned.beginnings.items()}
        wanted = [placeholder(name) for name, kind in kinds.items() if kind != "negative"]
        avoided = [placeholder(name) for name, kind in kinds.items() if kind == "negative"]
        self._prompts = run.config.preview_prompt or _usual_prompts(run.config, wanted)
        self._negative = ", ".join([text for text in (run.config.preview_negative, *avoided) if text])

    def due(self, step: int, last: int) -> bool:
        """Whether previews are made after this step."""
        every = self._config.preview_every
        return every > 0 and (step % every == 0 or step == last)

    def make(self, step: int, embeddings: Sequence[Embedding]) -> float | None:
        """Writes the previews of a step; returns their mean CLIP cosine to the training images, if there are any."""
        results = generate(
            self._run.bundle,
            prompt=self._prompts,
            negative_prompt=self._negative or None,
            seeds=self._config.preview_seeds,
            steps=self._config.preview_steps,
            guidance=self._config.guidance,
            scheduler=self._config.scheduler,
            embeddings=collect({one.name: one for one in embeddings}, self._run.embeddings),
        )
        per_prompt = len(parse_seeds(self._config.preview_seeds))
        for result in results:
            number, seed = result.index // per_prompt + 1, result.record["seed"]
            save_result(
                self._run.folder.previews / f"{step:06d}-prompt{number}-seed{seed}.png",
                result.image,
                result.record,
            )
        return self._similarity(results)

    def _similarity(self, results: Sequence[Result]) -> float | None:
        clip, images = self._run.clip, self._run.objective.images
        if clip is None or not images:
            return None
        if self._features is None:
            self._features = image_features(clip, images)
        with torch.no_grad():
            features = clip.images(to_tensor([result.image for result in results]))
        return float((features @ self._features.T).mean())


def _usual_prompts(config: TrainConfig, placeholders: Sequence[str]) -> list[str]:
    """The embeddings alone, or else the first prompts of the run's file, or else nothing."""
    if placeholders:
        return [", ".join(placeholders)]
    return read_lines(config.prompt_file)[:PROMPTS_SHOWN] if config.prompt_file else [""]

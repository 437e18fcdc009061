"""Noisy pictures of prompts, and what the prompts do to them: all that a slider is learned on."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lab.embeddings.embedding import Embedding
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.models.unet import call_unet
from lab.sample.config import Request
from lab.sample.engine import run_jobs
from lab.sample.plan import plan
from lab.training.config import TrainConfig
from lab.training.data.caption_encoder import CaptionEncoder
from lab.training.data.sides import Side
from lab.training.objectives.denoising import add_noise, alphas_cumprod
from lab.training.objectives.objective import split_evenly

PICTURES = 96
"""Noisy pictures that a slider is learned on; what the prompts do to each is computed once."""

PICTURE_STEPS = 10
"""Denoising steps of the pictures where nothing else is asked for: they are noised again."""


class Pictures(NamedTuple):
    """Noisy pictures and what prompts do to them.

    Attributes:
        noisy, base, direction: (n, c, h, w): the latents, e(neutral), and d.
        timesteps: (n,).
        things: Which thing each shows.
    """

    noisy: Tensor
    base: Tensor
    direction: Tensor
    timesteps: Tensor
    things: list[int]


@torch.no_grad()
def make_pictures(
    bundle: Bundle,
    config: TrainConfig,
    sides: Sequence[Side],
    embeddings: Mapping[str, Embedding],
    encode: CaptionEncoder,
    listener: Listener = Listener(),
) -> Pictures:
    """Makes an image of each prompt, noises them again, and lets the model predict what is in them by each prompt.

    Args:
        embeddings: Those that the prompts name.
        encode: Encodes the prompts.

    Raises:
        InputError: settings that the model cannot serve.
    """
    options = config.sampling(config.resolution, dialect="plain", clip_skip=config.clip_skip)
    if config.sampling_steps is None:
        options = options.model_copy(update={"steps": PICTURE_STEPS})
    prompts = [text for side in sides for text in side]
    asked = [Request(place, text, None, config.seed + place, options) for place, text in enumerate(prompts)]
    samples = run_jobs(bundle, plan(bundle, asked, dict(embeddings)), listener=listener)
    clean = torch.stack([one.latents for one in sorted(samples, key=lambda one: one.job.index)])
    generator, alphas = config.generator("pictures"), alphas_cumprod(bundle)
    low, high = config.timesteps or (0, len(alphas))
    timesteps = torch.randint(low, min(high, len(alphas)), (PICTURES,), generator=generator)
    shown = [place % len(prompts) for place in range(PICTURES)]
    noise = torch.randn(PICTURES, *clean.shape[1:], generator=generator)
    noisy, _ = add_noise(clean[shown], noise, alphas[timesteps], bundle.prediction_type)
    things = [place // len(Side._fields) for place in shown]

    def predict(form: int) -> Tensor:
        embeds, pooled, _ = encode([side[form] for side in sides])
        parts = []
        for some in split_evenly(range(PICTURES), math.ceil(PICTURES / config.evaluated_at_once)):
            which, device = [things[place] for place in some], bundle.device
            made = call_unet(
                bundle.unet,
                noisy[some].to(device),
                timesteps[some].to(device),
                embeds[which],
                None if pooled is None else pooled[which],
                time_ids_of(bundle, len(some)),
            )
            parts.append(made.cpu())
        return torch.cat(parts)

    neutral, start, end = map(predict, range(len(Side._fields)))
    return Pictures(noisy, neutral, end - start, timesteps, things)


def time_ids_of(bundle: Bundle, count: int) -> Tensor:
    """(count, 6): SDXL's sizes of pictures of the model's own size, not cut."""
    size = (bundle.defaults.height, bundle.defaults.width)
    return torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32, device=bundle.device).expand(count, -1)

"""The reward objective: negative vectors that make images better, by gradients through the end of sampling.

As ReNeg (2412.19637) does it: images are sampled with guidance from pure noise, and a differentiable reward of the
decoded image is ascended with respect to what stands in for the negative prompt, through the last denoising steps.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lab.condition.conditioning import Conditioning, Encoding, Part
from lab.embeddings.embedding import XTI_LAYERS, Embedding
from lab.errors import InputError
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.models.folder import read_module
from lab.sample.config import GenerateConfig, NegativeOptions, Request
from lab.sample.denoise import denoise, denoise_with_gradient
from lab.sample.pixels import to_pixels
from lab.sample.plan import Job, plan
from lab.sample.settings import Settings, resolve_settings
from lab.score.config import TOOLS, ScoreOptions
from lab.score.metrics import METRICS
from lab.score.reward import Reward, read_weights
from lab.score.tools import Batch, Tools, open_tools
from lab.text import counted, read_lines
from lab.training.config import TrainConfig
from lab.training.data.caption_encoder import CaptionEncoder
from lab.training.data.captions import placeholder
from lab.training.data.examples import FIXED
from lab.training.learned import Learned
from lab.training.objectives.objective import Cost, Objective, split_evenly

Decode = Callable[[Tensor], Tensor]
"""Latents (n, c, h, w) to pixels (n, 3, H, W) in 0..1, both float32; differentiable."""


@dataclass(frozen=True)
class Shot:
    """An example: one image to make, by the number of its prompt (from 0) and the seed of its noise."""

    prompt: int
    seed: int


PROMPTS_SHOWN = 20
"""Prompts that a dry run tells."""


class RewardAscent(Objective[Shot]):
    """A negative embedding that makes images better, without images to learn from.

    Ascends a reward, and keeps prompt and style where they are without the vectors. The loss of an image is
        -reward + keep_prompt * max(0, cos(x0, t) - cos(x, t)) + keep_image * (1 - cos(x, x0))
    with the CLIP features x of the image, x0 of the image with the same noise and an empty negative prompt, and t of
    the prompt.
    """

    kind, word, images_show_it = "negative", "low quality", False
    rate = 0.2
    watched = ("reward", "clip_text")

    def __init__(self, bundle: Bundle, config: TrainConfig, embeddings: Mapping[str, Embedding]):
        super().__init__(bundle, config, embeddings)
        if config.prompt_file is None:
            raise InputError(
                "prompt_file: a reward needs prompts to make images of; give a file with --prompt-file"
            )
        settings = sampling_settings(bundle, config)  # before CLIP is loaded
        self.layers_stay = settings.avoiding.attend is None and config.place != "layers"
        self._prompts = read_lines(config.prompt_file)
        self._tools = _open_tools(bundle, config)
        self._reward = Reward(read_weights(config.reward), self._tools, differentiable=True)
        self._decode = make_decoder(bundle, config.tiny_decoder)
        self._jobs = _plan_prompts(bundle, self._prompts, config, embeddings)
        self._known: dict[tuple[Shot, ...], tuple[Tensor, Tensor]] = {}
        self._fixed = self._shots(FIXED, config.evaluate_on)

    @classmethod
    def cost(cls, bundle: Bundle, config: TrainConfig) -> Cost:
        """What an image costs: the sides of guidance at each step, and the same again without the vectors.

        Raises:
            InputError: see `sampling_settings`.
        """
        settings = sampling_settings(bundle, config)
        compared = 2 if config.keep_prompt or config.keep_image else 1
        rows_back = settings.passes * config.gradient_steps
        kept = settings.passes if config.gradient_checkpointing else rows_back
        return Cost(
            settings.passes * settings.steps * compared,
            rows_back,
            kept,
            decoder_back=config.tiny_decoder is None,
        )

    def fingerprint(self) -> dict[str, str]:
        """The prompts by number, and where the tools come from that the reward measures with."""
        tools = {name: getattr(self.config, name) for name in TOOLS}
        return {f"prompt {number}": prompt for number, prompt in enumerate(self._prompts, 1)} | {
            name: str(source) for name, source in tools.items() if source is not None
        }

    def describe(self) -> Iterator[str]:
        """Yields the prompts."""
        yield f"{counted(len(self._prompts), 'prompt')}, of which images are made in every step:"
        yield from (f"  {prompt}" for prompt in self._prompts[:PROMPTS_SHOWN])
        if len(self._prompts) > PROMPTS_SHOWN:
            yield f"  ... and {len(self._prompts) - PROMPTS_SHOWN} more"

    def start(self, learned: Learned, listener: Listener = Listener()) -> None:
        """Takes the vectors, all of which stand in the negative prompt."""
        self._negative_text = ", ".join(placeholder(name) for name in learned.rows)
        self._encode = CaptionEncoder(self.bundle, learned.placed, self.config.clip_skip)

    def batch(self, step: int) -> Sequence[Shot]:
        """Prompts in shuffled epochs, each with noise that no other step has."""
        return self._shots(step, self.config.batch_size)

    def fixed(self) -> Sequence[Sequence[Shot]]:
        """Prompts and noise that stay the same, in groups of what is computed at once."""
        return split_evenly(self._fixed, math.ceil(len(self._fixed) / self.config.at_once))

    def losses(self, examples: Sequence[Shot]) -> Tensor:
        """(b,) losses of images made with the vectors as they are."""
        return self.watch(examples)[:, 0]

    def watch(self, examples: Sequence[Shot]) -> Tensor:
        """(b, 3): loss, reward, CLIP similarity to the prompt."""
        config = self.config
        batch = self._to_judge(examples, self._make(examples, self._negative()))
        reward, likeness = self._reward(batch), METRICS["clip_text"].compute(batch)
        loss = -reward
        if config.keep_prompt or config.keep_image:
            features, before = self._without_negative(examples)
            loss = loss + config.keep_prompt * (before - likeness).clamp_min(0)
            loss = loss + config.keep_image * (1 - (batch.features * features).sum(dim=-1))
        return torch.stack([loss, reward, likeness], dim=1)

    def objection(self, first: Mapping[str, float], now: Mapping[str, float]) -> str | None:
        """Reward hacking: the reward rose while the images lost what the prompts say."""
        lost = first["clip_text"] - now["clip_text"]
        if now["reward"] <= first["reward"] or lost <= self.config.most_lost:
            return None
        return (
            f"reward hacking: the reward rose from {first['reward']:.3g} to {now['reward']:.3g} while CLIP similarity "
            f"to the prompt fell by {lost:.3g} (--most-lost {self.config.most_lost:g}); more --keep-prompt or a lower "
            "--learning-rate would hold it"
        )

    def _shots(self, step: int, count: int) -> list[Shot]:
        """The images of a step: prompts go round, in another order each time, or evenly for the fixed ones."""
        prompts, shots = len(self._prompts), list[Shot]()
        for slot in range(count):
            if step == FIXED:
                prompt = slot * prompts // count if count <= prompts else slot % prompts
            else:
                turn, place = divmod(step * count + slot, prompts)
                prompt = int(torch.randperm(prompts, generator=self.config.generator("prompts", turn))[place])
            noise = int(torch.randint(2**31, (), generator=self.config.generator("noise", step, slot)))
            shots.append(Shot(prompt, noise))
        return shots

    def _negative(self) -> Conditioning:
        """The vectors as they are, as a negative prompt: gradients go back to them."""
        text = self._negative_text
        embeds, pooled, layers = self._encode([text])
        encoding = Encoding(
            text,
            embeds[0],
            None if pooled is None else pooled[0],
            self._encode.spans(text),
            layers=dict(zip(XTI_LAYERS, (each[0] for each in layers), strict=False)),
        )
        return Conditioning(text, (Part(1.0, ((1, encoding),)),))

    def _make(self, shots: Sequence[Shot], negative: Conditioning | None) -> Tensor:
        """Pixels (b, 3, H, W) in 0..1, with gradients back to the negative side if they are wanted; without one, the
        negative prompt is empty."""
        jobs = [replace(self._jobs[shot.prompt], seed=shot.seed) for shot in shots]
        if negative is not None:
            jobs = [replace(job, negative=negative) for job in jobs]
        if not torch.is_grad_enabled():
            return self._decode(denoise(self.bundle, jobs))
        again = self.config.gradient_checkpointing
        latents = denoise_with_gradient(self.bundle, jobs, self.config.gradient_steps, again)
        if again:
            return checkpoint(self._decode, latents, use_reentrant=False)
        return self._decode(latents)

    def _to_judge(self, shots: Sequence[Shot], pixels: Tensor) -> Batch:
        return Batch(self._tools, pixels, [self._prompts[shot.prompt] for shot in shots])

    @torch.no_grad()
    def _without_negative(self, shots: Sequence[Shot]) -> tuple[Tensor, Tensor]:
        """CLIP features (b, p) and similarities (b,) to the prompt of the same images with an empty negative prompt.

        Those of the fixed images are made once. Others never come again, and made in other company they would differ
        in the last digits, so that a resumed run would not end the same.
        """
        key = tuple(shots)
        if key in self._known:
            return self._known[key]
        batch = self._to_judge(shots, self._make(shots, None))
        found = batch.features, METRICS["clip_text"].compute(batch)
        if set(shots) <= set(self._fixed):
            self._known[key] = found
        return found


def sampling_config(config: TrainConfig) -> GenerateConfig:
    """How a run samples the images that it learns from: prompts are plain text, as captions are."""
    negatives = {name: getattr(config, name) for name in NegativeOptions.model_fields}
    return config.sampling(config.resolution, dialect="plain", clip_skip=config.clip_skip, **negatives)


def sampling_settings(bundle: Bundle, config: TrainConfig) -> Settings:
    """How a run samples the images that it learns from, completed by the model's defaults.

    Raises:
        InputError: settings that the model cannot serve, under which the negative prompt does nothing or not what the
            method is for, or more steps with gradients than there are.
    """
    settings = resolve_settings(bundle.facts, sampling_config(config))
    method = settings.avoiding
    if settings.guidance <= 1 and method.attend is None:
        raise InputError(
            f"guidance: {settings.guidance:g} leaves the negative prompt no part; give a --guidance above 1, or "
            "--negative-method nag, negpip or vsf"
        )
    if settings.guidance > 1 and method.negates:
        raise InputError(
            f"negative_method: above guidance 1 {settings.negative_method} leaves the negative prompt to guidance; "
            "give --guidance 1, or another method"
        )
    if config.gradient_steps > settings.steps:
        raise InputError(
            f"gradient_steps: {config.gradient_steps} of {settings.steps} denoising steps; give fewer, or more "
            "--sampling-steps"
        )
    return settings


def make_decoder(bundle: Bundle, tiny: Path | None) -> Decode:
    """The decoder of the model's own VAE, or of the tiny autoencoder in a folder.

    Raises:
        InputError: no AutoencoderTiny in the folder, or one for other latents.
    """
    if tiny is None:
        return lambda latents: to_pixels(bundle, latents)
    if not (tiny / "config.json").is_file():
        raise InputError(
            f"{tiny}: no tiny decoder; its folder has config.json and the weights of an AutoencoderTiny"
        )
    vae = read_module(AutoencoderTiny, tiny, None, torch.float32).requires_grad_(False).to(bundle.device)
    channels = bundle.unet.config.in_channels
    if vae.config.latent_channels != channels:
        raise InputError(
            f"{tiny}: decodes latents of {vae.config.latent_channels} channels, and {bundle.source} has {channels}"
        )

    def decode(latents: Tensor) -> Tensor:
        return (vae.decode(latents.to(bundle.device), return_dict=False)[0] / 2 + 0.5).clamp(0, 1)

    return decode


def _open_tools(bundle: Bundle, config: TrainConfig) -> Tools:
    metrics = [*read_weights(config.reward), "clip_text"]
    tools = open_tools(bundle, ScoreOptions.tools_of(config), metrics=metrics)
    reason = tools.why_not(("clip",))
    if reason:
        raise InputError(f"clip: a reward is watched for what it costs the prompts: {reason}")
    return tools


def _plan_prompts(
    bundle: Bundle, prompts: Sequence[str], config: TrainConfig, embeddings: Mapping[str, Embedding]
) -> list[Job]:
    """A job for each prompt, of one chunk, with an empty negative prompt."""
    options = sampling_config(config)
    jobs = plan(
        bundle, [Request(index, text, "", 0, options) for index, text in enumerate(prompts)], embeddings
    )
    context = bundle.context_length
    for job in jobs:
        if len(job.positive.embeds) > context:
            raise InputError(
                f"prompt_file: '{job.positive.prompt[:60]}...' has more than {context - 2} tokens; a reward takes "
                "shorter prompts"
            )
    return jobs

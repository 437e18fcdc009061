"""The reward objective: negative vectors that make images better, by gradients through the end of sampling.

As ReNeg (2412.19637) does it: images are sampled with guidance from pure noise, and a differentiable reward of the
decoded image is ascended with respect to what stands in for the negative prompt, through the last denoising steps.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lab.condition.conditioning import Conditioning, Encoding, Part
from lab.condition.encode import encode
from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.models.folder import read_module
from lab.sample.config import SamplingOptions
from lab.sample.denoise import denoise, denoise_with_gradient
from lab.sample.pixels import to_pixels
from lab.sample.plan import Job
from lab.sample.settings import Settings, resolve
from lab.score.batch import Batch
from lab.score.config import ScoreOptions
from lab.score.metrics import METRICS
from lab.score.reward import Reward, read_weights
from lab.score.tools import Tools, open_tools
from lab.training.config import TrainConfig
from lab.training.data.captions import CaptionEncoder, placeholder
from lab.training.data.examples import FIXED
from lab.training.data.prompts import PromptData
from lab.training.estimate import Work
from lab.training.loop import Task, pieces
from lab.training.streams import stream
from lab.training.vectors import Learned

Decode = Callable[[Tensor], Tensor]
"""Latents (n, c, h, w) to pixels (n, 3, H, W) in 0..1, both float32; differentiable."""


def decoder(bundle: Bundle, tiny: Path | None) -> Decode:
    """The model's own VAE, or the tiny autoencoder in a folder.

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


@dataclass(frozen=True)
class Shot:
    """One image to make: a prompt by its number, and the seed of its noise."""

    prompt: int
    seed: int


class Ascent(Task[Shot]):
    """Ascends a reward, and holds prompt and style where they are without the vectors.

    The loss of an image is
        -reward + keep_prompt * max(0, cos(x0, t) - cos(x, t)) + keep_image * (1 - cos(x, x0))
    with the CLIP features x of the image, x0 of the image with the same noise and an empty negative prompt, and t of
    the prompt.
    """

    watched = ("reward", "clip_text")

    def __init__(self, bundle: Bundle, config: TrainConfig, data: PromptData, learned: Learned):
        self._bundle = bundle
        self._config = config
        self._settings = sampling(bundle, config)
        self._tools = _tools(bundle, config)
        self._reward = Reward(read_weights(config.reward), self._tools, differentiable=True)
        self._decode = decoder(bundle, config.tiny_decoder)
        self._prompts = data.prompts
        self._positive = _encoded(bundle, data.prompts, config)
        (self._empty,) = _encoded(bundle, [""], config)
        self._text = ", ".join(placeholder(name) for name in learned.rows)
        self._encode = CaptionEncoder(bundle, learned, config.clip_skip)
        self._known: dict[tuple[Shot, ...], tuple[Tensor, Tensor]] = {}
        self._fixed = self._shots(FIXED, config.evaluate_on)

    def batch(self, step: int) -> Sequence[Shot]:
        """Prompts in shuffled epochs, each with noise that no other step has."""
        return self._shots(step, self._config.batch_size)

    def fixed(self) -> Sequence[Sequence[Shot]]:
        """Prompts and noise that stay the same, in groups of the size of a step's pieces."""
        size = -(-self._config.batch_size // self._config.accumulation)
        return pieces(self._fixed, -(-len(self._fixed) // size))

    def losses(self, examples: Sequence[Shot]) -> Tensor:
        """(b,) losses of images made with the vectors as they are."""
        return self.watch(examples)[:, 0]

    def watch(self, examples: Sequence[Shot]) -> Tensor:
        """(b, 3): loss, reward, CLIP similarity to the prompt."""
        config = self._config
        batch = self._judged(examples, self._make(examples, self._negative()))
        reward, likeness = self._reward(batch), METRICS["clip_text"].compute(batch)
        loss = -reward
        if config.keep_prompt or config.keep_image:
            features, before = self._without(examples)
            loss = loss + config.keep_prompt * (before - likeness).clamp_min(0)
            loss = loss + config.keep_image * (1 - (batch.features * features).sum(dim=-1))
        return torch.stack([loss, reward, likeness], dim=1)

    def objection(self, first: Mapping[str, float], now: Mapping[str, float]) -> str | None:
        """Reward hacking: the reward rose while the images lost what the prompts say."""
        lost = first["clip_text"] - now["clip_text"]
        if now["reward"] <= first["reward"] or lost <= self._config.most_lost:
            return None
        return (
            f"reward hacking: the reward rose from {first['reward']:.3g} to {now['reward']:.3g} while CLIP similarity "
            f"to the prompt fell by {lost:.3g} (--most-lost {self._config.most_lost:g}); more --keep-prompt or a lower "
            "--learning-rate would hold it"
        )

    def _shots(self, step: int, count: int) -> list[Shot]:
        """The images of a step: prompts go round, in another order each time, or evenly for the fixed ones."""
        prompts, seed = len(self._prompts), self._config.seed
        shots = []
        for slot in range(count):
            if step == FIXED:
                prompt = slot * prompts // count if count <= prompts else slot % prompts
            else:
                turn, place = divmod(step * count + slot, prompts)
                prompt = int(torch.randperm(prompts, generator=stream(seed, "prompts", turn))[place])
            noise = int(torch.randint(2**31, (), generator=stream(seed, "noise", step, slot)))
            shots.append(Shot(prompt, noise))
        return shots

    def _negative(self) -> Conditioning:
        """The vectors as they are, as a negative prompt: gradients go back to them."""
        embeds, pooled = self._encode([self._text])
        return _plain(self._text, embeds[0], None if pooled is None else pooled[0])

    def _make(self, shots: Sequence[Shot], negative: Conditioning) -> Tensor:
        """Pixels (b, 3, H, W) in 0..1, with gradients back to the negative side if they are wanted."""
        jobs = [
            Job(place, self._positive[shot.prompt], negative, shot.seed, self._settings)
            for place, shot in enumerate(shots)
        ]
        if not torch.is_grad_enabled():
            return self._decode(denoise(self._bundle, jobs))
        again = self._config.gradient_checkpointing
        latents = denoise_with_gradient(self._bundle, jobs, self._config.gradient_steps, again)
        if again:
            return checkpoint(self._decode, latents, use_reentrant=False)
        return self._decode(latents)

    def _judged(self, shots: Sequence[Shot], pixels: Tensor) -> Batch:
        return Batch(self._tools, pixels, [self._prompts[shot.prompt] for shot in shots])

    @torch.no_grad()
    def _without(self, shots: Sequence[Shot]) -> tuple[Tensor, Tensor]:
        """CLIP features (b, p) and similarities (b,) to the prompt of the same images with an empty negative prompt.

        Those of the fixed images are made once. Others never come again, and made in other company they would differ
        in the last digits, so that a resumed run would not end the same.
        """
        key = tuple(shots)
        if key in self._known:
            return self._known[key]
        batch = self._judged(shots, self._make(shots, self._empty))
        found = batch.features, METRICS["clip_text"].compute(batch)
        if set(shots) <= set(self._fixed):
            self._known[key] = found
        return found


def sampling(bundle: Bundle, config: TrainConfig) -> Settings:
    """How the images of a run are sampled.

    Raises:
        InputError: settings that the model cannot serve, no guidance, or more steps with gradients than there are.
    """
    options = SamplingOptions(
        steps=config.sampling_steps,
        guidance=config.guidance,
        scheduler=config.scheduler,
        width=config.resolution,
        height=config.resolution,
    )
    settings = resolve(bundle, options)
    if settings.guidance <= 1:
        raise InputError(
            f"guidance: {settings.guidance:g} leaves the negative prompt no part; give a --guidance above 1"
        )
    if config.gradient_steps > settings.steps:
        raise InputError(
            f"gradient_steps: {config.gradient_steps} of {settings.steps} denoising steps; give fewer, or more "
            "--sampling-steps"
        )
    return settings


def work(bundle: Bundle, config: TrainConfig) -> Work:
    """What an image costs: both sides of guidance at each step, and the same again without the vectors."""
    steps = sampling(bundle, config).steps
    compared = 2 if config.keep_prompt or config.keep_image else 1
    learned = 2 * config.gradient_steps
    kept = 2 if config.gradient_checkpointing else learned
    return Work(2 * steps * compared, learned, kept, decoded=config.tiny_decoder is None)


def _tools(bundle: Bundle, config: TrainConfig) -> Tools:
    options = ScoreOptions(
        clip=config.clip, pickscore=config.pickscore, aesthetic=config.aesthetic, quality=config.quality
    )
    tools = open_tools(bundle, options)
    reason = tools.why_not(("clip",))
    if reason:
        raise InputError(f"clip: a reward is watched for what it costs the prompts: {reason}")
    return tools


def _encoded(bundle: Bundle, prompts: Sequence[str], config: TrainConfig) -> list[Conditioning]:
    """Plain prompts of one chunk each."""
    made = encode(bundle, list(prompts), dialect="plain", clip_skip=config.clip_skip)
    context = bundle.context_length
    for prompt, conditioning in zip(prompts, made, strict=True):
        if len(conditioning.embeds) > context:
            raise InputError(
                f"prompt_file: '{prompt[:60]}...' has more than {context - 2} tokens; a reward takes shorter prompts"
            )
    return made


def _plain(text: str, embeds: Tensor, pooled: Tensor | None) -> Conditioning:
    return Conditioning(text, (Part(1.0, ((1, Encoding(text, embeds, pooled)),)),))

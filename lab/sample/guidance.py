"""Classifier-free guidance: the arithmetic on predictions, and the calls of the U-Net that it combines."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lab.condition.conditioning import Conditioning, Encoding
from lab.models.bundle import Bundle
from lab.models.device import to_device
from lab.models.unet import Control, call_unet, takes_guidance_scale
from lab.sample.plan import Job
from lab.sample.settings import Settings


def apply_guidance(unconditional: Tensor, conditionals: Sequence[Tensor], scales: Tensor) -> Tensor:
    """Classifier-free guidance, over one prompt or several: u + sum_i w_i s (c_i - u).

    Ho & Salimans (2207.12598) eq. 6 in the form that diffusers uses, composed over several prompts as Liu et al.
    (2206.01714) eq. 11 and the A1111 web UI's `AND` do.

    Args:
        unconditional: u, (b, c, h, w), the prediction for the negative prompt.
        conditionals: c_i, one (b, c, h, w) for each part of the prompts.
        scales: w_i s, (parts, b): each image's guidance scale times the part's weight.

    Returns:
        (b, c, h, w), the guided prediction.
    """
    guided = unconditional
    for conditional, scale in zip(conditionals, scales, strict=True):
        guided = guided + _per_image(scale) * (conditional - unconditional)
    return guided


def rescale_guidance(guided: Tensor, conditional: Tensor, amount: float) -> Tensor:
    """Guidance rescale: gives the guided prediction the conditional one's standard deviation, image by image.

    Lin et al. (2305.08891) eq. 14 to 16; keeps guidance from overexposing models with zero terminal SNR.

    Args:
        guided, conditional: (b, c, h, w) predictions.
        amount: The share of the rescaled prediction in the result, 0..1 (diffusers' `guidance_rescale`).
    """
    axes = list(range(1, guided.ndim))
    matched = guided * (conditional.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True))
    return amount * matched + (1 - amount) * guided


def noise_level(timestep: Tensor, alphas_cumprod: Tensor) -> float:
    """sigma = sqrt((1 - a) / a) at a timestep, by which guidance intervals are given; infinite at zero SNR.

    Args:
        timestep: One number, which may lie between two steps of the training schedule.
        alphas_cumprod: a, (timesteps,) of the training schedule, interpolated linearly.
    """
    last = len(alphas_cumprod) - 1
    position = min(max(float(timestep), 0.0), last)
    below = int(position)
    above = min(below + 1, last)
    share = position - below
    alpha = (1 - share) * float(alphas_cumprod[below]) + share * float(alphas_cumprod[above])
    return ((1 - alpha) / alpha) ** 0.5 if alpha > 0 else float("inf")


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


class Predictor:
    """The guided predictions of noise (or v) for one batch of jobs, one call of the U-Net a step.

    The negative prompt's rows come first in the U-Net's batch, then each part of the prompts, as in diffusers.
    """

    def __init__(self, bundle: Bundle, jobs: Sequence[Job], scheduler: Any):
        """Takes the scheduler for its timesteps and tables. What every step needs goes to the device once, here."""
        self._bundle = bundle
        self._jobs = jobs
        self._settings = jobs[0].settings
        self._alphas_cumprod = scheduler.alphas_cumprod
        timesteps = to_device(scheduler.timesteps, bundle.device)
        self._timesteps = dict(zip(scheduler.timesteps.tolist(), timesteps, strict=True))
        self._scale = to_device(torch.tensor([job.settings.guidance for job in jobs]), bundle.device)
        self._positive = _PromptSide(bundle, [job.positive for job in jobs])
        self._takes_scale = takes_guidance_scale(bundle.unet)
        self._guided = jobs[0].guided and not self._takes_scale
        # Jobs that are not guided share a batch however their negative prompts are composed, as these take no part.
        self._negative = _PromptSide(bundle, [job.negative for job in jobs] if self._guided else [])
        self._scales = self._positive.weights * self._scale
        sizes = micro_conditioning(self._settings)
        self._time_ids = None if sizes is None else to_device(torch.tensor([sizes]).float(), bundle.device)
        self._control = _stacked_control(jobs)
        self._texts: dict[tuple[Encoding, ...], tuple[Tensor, Tensor | None]] = {}

    def __call__(self, noisy: Tensor, timestep: Tensor, index: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Predicts from noisy latents (b, c, h, w), scaled as the scheduler wants them.

        Args:
            timestep: One of the scheduler's, on the CPU.
            index: The number of the call, from 0, by which prompts are scheduled.

        Returns:
            The guided prediction (b, c, h, w) in float32, its conditional part, and its unconditional part, which is
            None at steps that are not guided: there the negative prompt is not even computed.
        """
        if not self._guided_at(timestep):
            conditional = self._positive.average(self._run(noisy, timestep, self._positive.at(index)))
            return conditional, conditional, None
        sides = [*self._negative.at(index), *self._positive.at(index)]
        predictions = self._run(noisy, timestep, sides)
        count = len(self._negative.weights)
        unconditional = self._negative.average(predictions[:count])
        conditional = self._positive.average(predictions[count:])
        guided = apply_guidance(unconditional, predictions[count:], self._scales)
        if self._settings.guidance_rescale > 0:
            guided = rescale_guidance(guided, conditional, self._settings.guidance_rescale)
        return guided, conditional, unconditional

    def _guided_at(self, timestep: Tensor) -> bool:
        interval = self._settings.guidance_interval
        if not self._guided or interval is None:
            return self._guided
        return interval[0] <= noise_level(timestep, self._alphas_cumprod) <= interval[1]

    def _run(self, noisy: Tensor, timestep: Tensor, members: Sequence[list[Encoding]]) -> tuple[Tensor, ...]:
        """(b, c, h, w) for each member, in one call of the U-Net; a member is one encoding for each image."""
        copies = len(members)
        embeds, pooled = self._stacked([encoding for member in members for encoding in member])
        output = call_unet(
            self._bundle.unet,
            noisy.repeat(copies, 1, 1, 1),
            self._timesteps[timestep.item()],
            embeds,
            pooled,
            None if self._time_ids is None else self._time_ids.expand(len(embeds), -1),
            self._scale.repeat(copies) if self._takes_scale else None,
            self._control and self._control._replace(images=self._control.images.repeat(copies, 1, 1, 1)),
        )
        return output.chunk(copies)

    def _stacked(self, rows: Sequence[Encoding]) -> tuple[Tensor, Tensor | None]:
        """Prompt embeddings (rows, n, d) and SDXL's pooled ones (rows, p), moved to the device once for many steps,
        from wherever each of them is.

        Texts of unequal length are repeated to their least common multiple n, as ComfyUI does: a softmax over keys
        that all come equally often gives what it gives over the keys once.
        """
        key = tuple(rows)
        # What gradients pass is never taken from before.
        if torch.is_grad_enabled() or key not in self._texts:
            length = math.lcm(*(len(row.embeds) for row in rows))
            there = {row: self._on_device(row.embeds).repeat(length // len(row.embeds), 1) for row in rows}
            pooled = {row: self._on_device(row.pooled) for row in rows if row.pooled is not None}
            dtype = self._bundle.dtype
            self._texts[key] = (
                torch.stack([there[row] for row in rows]).to(dtype),
                torch.stack([pooled[row] for row in rows]).to(dtype) if pooled else None,
            )
        return self._texts[key]

    def _on_device(self, states: Tensor) -> Tensor:
        """On the bundle's device: an encoder's texts are on the CPU, those that a run learns on the device."""
        return to_device(states, self._bundle.device)


def _stacked_control(jobs: Sequence[Job]) -> Control | None:
    """The one ControlNet of a batch with all images' control images."""
    controls = [job.control for job in jobs if job.control is not None]
    if not controls:
        return None
    return controls[0]._replace(images=torch.cat([control.images for control in controls]))


class _PromptSide:
    """The prompts, or the negative prompts, of a batch: all composed of the same number of parts."""

    def __init__(self, bundle: Bundle, conditionings: Sequence[Conditioning]):
        self._parts = list(zip(*(conditioning.parts for conditioning in conditionings), strict=True))
        weights = [[part.weight for part in member] for member in self._parts]
        self.weights = to_device(torch.tensor(weights), bundle.device)
        """(parts, b)"""

    def at(self, index: int) -> list[list[Encoding]]:
        """For each part, the encoding in force for each image at a call of the U-Net."""
        return [[part.at(index) for part in member] for member in self._parts]

    def average(self, predictions: Sequence[Tensor]) -> Tensor:
        """The parts' predictions (b, c, h, w) averaged by the sizes of their weights."""
        if len(predictions) == 1:
            return predictions[0]
        sizes = self.weights.abs()
        shares = sizes / sizes.sum(dim=0).clamp_min(1e-6)
        return torch.einsum("pb,pbchw->bchw", shares, torch.stack(list(predictions)))


def micro_conditioning(settings: Settings) -> tuple[int, ...] | None:
    """SDXL's six `time_ids` in pixels (2307.01952, section 2.2), None for other families.

    They are the original size, the crop's corner and the image's size, each height first.
    """
    if settings.original_width is None or settings.original_height is None:
        return None
    original = settings.original_height, settings.original_width
    return *original, settings.crop_top or 0, settings.crop_left or 0, settings.height, settings.width

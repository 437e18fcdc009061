"""The denoising loop: conditioning and noise in, latents out, for one batch of images."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lab.errors import InputError
from lab.models.attention import text_keys_kept
from lab.models.bundle import Bundle
from lab.models.device import to_device
from lab.models.schedulers import make_scheduler
from lab.sample.plan import Job
from lab.sample.predict import Prediction, Predictor


def image_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator an image; the initial noise comes first, then any that the scheduler asks for."""
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def initial_noise(generators: Sequence[torch.Generator], shape: tuple[int, int, int]) -> Tensor:
    """Standard normal latents (b, c, h, w) in float32 on the CPU, as diffusers draws them from such a list.

    Each image's noise depends on its seed alone: not on the batch, the device or the precision.
    """
    return torch.cat([torch.randn((1, *shape), generator=generator) for generator in generators])


@dataclass(frozen=True)
class Step:
    """What an observer sees after each call of the U-Net.

    Attributes:
        index, count: This call, from 0, and the number of calls (Heun and PNDM make more of them than steps). Prompts
            are scheduled by it, as in the web UI.
        step: The denoising step, from 0, that the call belongs to; image-to-image leaves out the first ones.
        timestep: Of the noisy latents that went in, on the CPU.
        noisy: (b, c, h, w) float32, the noisy latents as the U-Net takes them.
        prediction: (b, c, h, w) float32 after guidance.
        conditional: (b, c, h, w) for the prompt (its parts averaged by their weights).
        unconditional: (b, c, h, w) for what guidance leads away from, or None where nothing was guided.
        negative: Whether that is the negative prompt; its rows then come first in the U-Net's batch.
        jobs: What the b rows are of.
    """

    index: int
    count: int
    step: int
    timestep: Tensor
    noisy: Tensor
    prediction: Tensor
    conditional: Tensor
    unconditional: Tensor | None
    negative: bool
    jobs: Sequence[Job]


Observer = Callable[[Step], None]


def clean_estimate(bundle: Bundle, step: Step) -> Tensor:
    """(b, c, h, w) float32: what the latents would become if each further prediction said what this one does.

    With a = alphas_cumprod[t], x the noisy latents and e or v the prediction, x0 = (x - sqrt(1 - a) e) / sqrt(a)
    (2006.11239, equation 15), or x0 = sqrt(a) x - sqrt(1 - a) v (2202.00512, appendix D).
    """
    settings = step.jobs[0].settings
    scheduler = make_scheduler(settings.scheduler, settings.karras, bundle.scheduler_config, settings.steps)
    alpha = scheduler.alphas_cumprod[int(step.timestep.round())].to(step.noisy)
    noise = (1 - alpha).sqrt()
    if bundle.prediction_type == "v_prediction":
        return alpha.sqrt() * step.noisy - noise * step.prediction
    return (step.noisy - noise * step.prediction) / alpha.sqrt().clamp(min=1e-3)


@torch.inference_mode()
def denoise(bundle: Bundle, jobs: Sequence[Job], observer: Observer | None = None) -> Tensor:
    """Samples the latents of jobs that share a batch key.

    Latents and scheduler arithmetic stay in float32 whatever the U-Net computes in.

    Returns:
        (b, c, h, w) float32 on the bundle's device.

    Raises:
        InputError: the latents are not finite; says from which step on.
    """
    sums: list[Tensor] = []  # finite where all that is summed up is

    def watch(step: Step) -> None:
        sums.append(step.prediction.sum())
        if observer:
            observer(step)

    on_cpu = bundle.device.type == "cpu" and not bundle.options.compile  # GPUs would give memory for no time
    with bundle.turn(), text_keys_kept(bundle.unet) if on_cpu else nullcontext():
        latents = _denoise(bundle, jobs, watch)
    if not latents.isfinite().all():
        raise InputError(_not_finite(bundle, sums))
    return latents


def _not_finite(bundle: Bundle, sums: Sequence[Tensor]) -> str:
    """What to say of latents that hold NaN or infinity, by the sum of each prediction of the U-Net."""
    first = next((place for place, total in enumerate(sums, 1) if not total.isfinite()), len(sums))
    advice = "a --guidance nearer to 7, weights nearer to 1, or another --scheduler"
    if bundle.dtype != torch.float32:
        advice = f"--dtype float32 in place of {bundle.precision}, or {advice}"
    return f"step {first} of {len(sums)}: the U-Net gave NaN or infinity, which would be a black image; try {advice}"


def denoise_with_gradient(
    bundle: Bundle, jobs: Sequence[Job], last: int, checkpointing: bool = False
) -> Tensor:
    """`denoise`, with gradients from the latents back to the jobs' prompt embeddings through the last steps.

    Args:
        last: How many denoising steps gradients go back through; the others are as without.
        checkpointing: Computes each of these steps again on the way back, so that memory holds one at a time.

    Returns:
        (b, c, h, w) float32 on the bundle's device.
    """
    return _denoise(bundle, jobs, None, last, checkpointing)


def _denoise(
    bundle: Bundle,
    jobs: Sequence[Job],
    observer: Observer | None,
    last: int = 0,
    checkpointing: bool = False,
) -> Tensor:
    settings = jobs[0].settings
    scheduler = make_scheduler(settings.scheduler, settings.karras, bundle.scheduler_config, settings.steps)
    generators = image_generators([job.seed for job in jobs])
    options = _step_options(scheduler, generators)
    start, first = _start(bundle, scheduler, jobs, generators)
    latents = to_device(start, bundle.device)
    predict = Predictor(bundle, jobs, scheduler)
    timesteps = scheduler.timesteps[first:]
    with_gradient = torch.is_grad_enabled()
    for index, timestep in enumerate(timesteps):
        step = (first + index) * settings.steps // len(scheduler.timesteps)
        noisy = scheduler.scale_model_input(latents, timestep)
        with torch.set_grad_enabled(with_gradient and step >= settings.steps - last):
            predictions: Prediction
            if checkpointing and torch.is_grad_enabled():
                predictions = checkpoint(predict, noisy, timestep, index, use_reentrant=False)
            else:
                predictions = predict(noisy, timestep, index)
            latents = scheduler.step(predictions.guided, timestep, latents, return_dict=False, **options)[0]
        if observer:
            observer(Step(index, len(timesteps), step, timestep, noisy, *predictions, jobs))
    return latents


def _start(
    bundle: Bundle, scheduler: Any, jobs: Sequence[Job], generators: list[torch.Generator]
) -> tuple[Tensor, int]:
    """Returns the first noisy latents, on the CPU, and the index of the first timestep.

    Image-to-image skips the first timesteps as diffusers' StableDiffusionImg2ImgPipeline does.
    """
    settings = jobs[0].settings
    shape = (
        bundle.unet.config.in_channels,
        settings.height // bundle.vae_scale,
        settings.width // bundle.vae_scale,
    )
    noise = initial_noise(generators, shape)
    if settings.strength is None:
        return noise * scheduler.init_noise_sigma, 0
    first = (settings.steps - settings.steps_run) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):  # PNDM counts on its own
        scheduler.set_begin_index(first)
    init = torch.cat([job.init_latents for job in jobs if job.init_latents is not None])
    return scheduler.add_noise(init, noise, scheduler.timesteps[first : first + 1].repeat(len(jobs))), first


def _step_options(scheduler: Any, generators: list[torch.Generator]) -> dict[str, Any]:
    """Schedulers that draw noise draw each image's from its own generator."""
    draws_noise = "generator" in inspect.signature(scheduler.step).parameters
    return {"generator": generators} if draws_noise else {}

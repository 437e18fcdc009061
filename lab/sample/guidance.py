"""Classifier-free guidance: the arithmetic on predictions."""

from collections.abc import Sequence

from torch import Tensor


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

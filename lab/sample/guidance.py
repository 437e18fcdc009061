"""Classifier-free guidance: pure arithmetic on predictions."""

from collections.abc import Sequence

from torch import Tensor


def guide(unconditional: Tensor, conditionals: Sequence[Tensor], weights: Tensor, scale: Tensor) -> Tensor:
    """u + sum_i w_i * s * (c_i - u): Ho & Salimans (2207.12598) eq. 6 in the form that diffusers uses, composed
    over several prompts as Liu et al. (2206.01714) eq. 11 and the A1111 web UI's `AND` do.

    Args:
        unconditional: (b, c, h, w), the prediction for the negative prompt.
        conditionals: one (b, c, h, w) for each part.
        weights: (parts, b), each part's weight for each image.
        scale: (b,) guidance scales.
    """
    guided = unconditional
    for conditional, weight in zip(conditionals, weights, strict=True):
        guided = guided + _per_image(weight * scale) * (conditional - unconditional)
    return guided


def rescale(guided: Tensor, conditional: Tensor, amount: float) -> Tensor:
    """Gives the guided prediction the conditional's standard deviation, by the share `amount` in 0..1.

    Lin et al. (2305.08891) eq. 14 to 16; keeps guidance from overexposing models with zero terminal SNR.
    """
    axes = list(range(1, guided.ndim))
    matched = guided * (conditional.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True))
    return amount * matched + (1 - amount) * guided


def noise_level(timestep: Tensor, alphas_cumprod: Tensor) -> float:
    """sigma = sqrt((1 - a) / a) at a timestep, infinite at zero SNR: the scale on which guidance intervals stand."""
    last = len(alphas_cumprod) - 1
    position = min(max(float(timestep), 0.0), last)
    below = int(position)
    above = min(below + 1, last)
    share = position - below
    alpha = (1 - share) * float(alphas_cumprod[below]) + share * float(alphas_cumprod[above])
    return ((1 - alpha) / alpha) ** 0.5 if alpha > 0 else float("inf")


def _per_image(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)

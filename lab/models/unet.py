"""The one call of the U-Net: what every family takes, and in which precision.

Symbols: b rows in the U-Net's batch, c x h x w latents, n rows of prompt embeddings, d their width, p the width of
SDXL's pooled prompt embeddings.
"""

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn


def call_unet(
    unet: UNet2DConditionModel,
    noisy: Tensor,
    timesteps: Tensor,
    embeds: Tensor,
    pooled: Tensor | None = None,
    time_ids: Tensor | None = None,
    guidance_scale: Tensor | None = None,
) -> Tensor:
    """Predicts noise (or v) from noisy latents.

    Args:
        noisy: (b, c, h, w) latents, scaled as the scheduler wants them.
        timesteps: (b,), or one for all rows.
        embeds: (b, n, d) prompt embeddings.
        pooled: (b, p), for SDXL alone.
        time_ids: (b, 6) SDXL's micro-conditioning in pixels: original size, crop, target size, height first
            (2307.01952, section 2.2).
        guidance_scale: (b,) for a U-Net distilled with guidance, see `takes_guidance_scale`.

    Returns:
        (b, c, h, w) float32. Differentiable with respect to every floating-point argument.
    """
    dtype, device = unet.dtype, noisy.device
    conditions: dict[str, Any] = {}
    if pooled is not None and time_ids is not None:
        # The U-Net embeds sizes in float32 itself, and bfloat16 has no 513.
        sizes = time_ids.to(device, torch.float32)
        conditions["added_cond_kwargs"] = {"text_embeds": pooled.to(device, dtype), "time_ids": sizes}
    if guidance_scale is not None:
        # As in diffusers' LatentConsistencyModelPipeline (2310.04378).
        width = unet.config.time_cond_proj_dim
        embedded = get_timestep_embedding((guidance_scale - 1) * 1000, width, downscale_freq_shift=1)
        conditions["timestep_cond"] = embedded.to(device, dtype)
    output = unet(
        noisy.to(dtype),
        timesteps,
        encoder_hidden_states=embeds.to(device, dtype),
        return_dict=False,
        **conditions,
    )
    return output[0].float()


def takes_guidance_scale(unet: UNet2DConditionModel) -> bool:
    """True of a U-Net that was distilled with guidance (LCM, 2310.04378): the scale is one of its inputs, and its
    predictions are not to be guided again."""
    return unet.config.time_cond_proj_dim is not None


EXACT_INPUTS = {"timestep", "added_cond_kwargs"}
"""U-Net inputs that keep their precision: bfloat16 has no 999, and the U-Net embeds these in float32 itself."""


def add_float32_interface(unet: nn.Module) -> None:
    """Lets a U-Net of lower precision take float32 inputs and answer in float32.

    Text encoders, latents and VAE stay in float32 beside it, and diffusers' pipelines cast nothing between them.
    """
    precision = next(unet.parameters()).dtype

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        sample, timestep, others = args[:1], args[1:2], args[2:]
        exact = {name: value for name, value in kwargs.items() if name in EXACT_INPUTS}
        cast_kwargs = _cast(kwargs, precision) | exact
        return _cast(sample, precision) + timestep + _cast(others, precision), cast_kwargs

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return _cast(output, torch.float32)
        return type(output)(sample=output.sample.float())

    unet.register_forward_pre_hook(before, with_kwargs=True)
    unet.register_forward_hook(after)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """The floating tensors in nested tuples and dicts, cast."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, tuple):
        return tuple(_cast(item, dtype) for item in value)
    if isinstance(value, dict):
        return {name: _cast(item, dtype) for name, item in value.items()}
    return value

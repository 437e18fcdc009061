"""The U-Net: the one call of it, what every family takes, in which precision, and how its layers compute.

Symbols: b rows in the U-Net's batch, c x h x w latents, n rows of prompt embeddings, d their width, p the width of
SDXL's pooled prompt embeddings.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lab.models.attention import Avoidance, attention_avoiding, texts_by_layer


class Control(NamedTuple):
    """What a ControlNet (2302.05543) adds to a call of the U-Net: images (b, 3, H, W) in 0..1, and how much it says."""

    model: ControlNetModel
    images: Tensor
    scale: float


def call_unet(
    unet: UNet2DConditionModel,
    noisy: Tensor,
    timesteps: Tensor,
    embeds: Tensor,
    pooled: Tensor | None = None,
    time_ids: Tensor | None = None,
    guidance_scale: Tensor | None = None,
    control: Control | None = None,
    avoidance: Avoidance | None = None,
    layers: Sequence[Tensor] = (),
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
        control: Reads the same latents and texts first, and its residuals are added to the U-Net's.
        avoidance: What cross-attention avoids; its rows stand behind those of the texts in `embeds`.
        layers: What each cross-attention layer reads in place of `embeds`, if they read different texts.

    Returns:
        (b, c, h, w) float32. Differentiable with respect to every floating-point argument.
    """
    dtype, device = unet.conv_in.weight.dtype, noisy.device  # `unet.dtype` looks through all modules
    conditions: dict[str, Any] = {}
    if pooled is not None and time_ids is not None:
        # The U-Net embeds sizes in float32 itself, and bfloat16 has no 513.
        sizes = time_ids.to(device, torch.float32)
        conditions["added_cond_kwargs"] = {"text_embeds": pooled.to(device, dtype), "time_ids": sizes}
    noisy, embeds = noisy.to(dtype), embeds.to(device, dtype)
    if control is not None:
        down, middle = control.model(
            noisy,
            timesteps,
            encoder_hidden_states=embeds if avoidance is None else embeds[:, : avoidance.texts],
            controlnet_cond=control.images.to(device, dtype),
            conditioning_scale=control.scale,
            return_dict=False,
            **conditions,
        )
        conditions |= {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    if guidance_scale is not None:
        # As in diffusers' LatentConsistencyModelPipeline (2310.04378).
        width = unet.config.time_cond_proj_dim
        embedded = get_timestep_embedding((guidance_scale - 1) * 1000, width, downscale_freq_shift=1)
        conditions["timestep_cond"] = embedded.to(device, dtype)
    with ExitStack() as stack:
        if avoidance is not None:
            stack.enter_context(attention_avoiding(unet, avoidance))
        if layers:
            stack.enter_context(texts_by_layer(unet, layers))
        output = unet(noisy, timesteps, encoder_hidden_states=embeds, return_dict=False, **conditions)
    return output[0].float()


def takes_guidance_scale(unet: UNet2DConditionModel) -> bool:
    """True of a U-Net that was distilled with guidance (LCM, 2310.04378): the scale is one of its inputs, and its
    predictions are not to be guided again."""
    return unet.config.time_cond_proj_dim is not None


class PlainAttention(Attention):
    """diffusers' attention, which does not find out anew at every call what its processor takes.

    That inspects a signature: of the time that a CPU needs to start a call of SDXL's U-Net on a GPU, a tenth.
    """

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **others: Any,
    ) -> Any:
        """(b, n, c) of states (b, n, c) that attend to `encoder_hidden_states` (b, keys, d), or else to each other."""
        if others:
            return super().forward(hidden_states, encoder_hidden_states, attention_mask, **others)
        states = {"encoder_hidden_states": encoder_hidden_states, "attention_mask": attention_mask}
        return self.processor(self, hidden_states, **states)


def use_plain_attention(unet: nn.Module) -> None:
    """Lets the attention layers of a U-Net waste no time; parameters, names and results stay as they are."""
    for part in unet.modules():
        if type(part) is Attention:
            part.__class__ = PlainAttention


EXACT_INPUTS = {"timestep", "added_cond_kwargs"}
"""U-Net inputs that keep their precision: bfloat16 has no 999, and the U-Net embeds these in float32 itself."""


def add_float32_interface(unet: nn.Module) -> None:
    """Lets a U-Net of lower precision take float32 inputs and answer in float32, for as long as it lives.

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


MIN_WEIGHTS = 2**21
"""Convolutions with fewer weights than these stay as they are: oneDNN lays them out quickly."""

MAX_POSITIONS = 256
"""Positions (batch x height x width of the input) up to which a matrix product is the faster one.

Together with MIN_WEIGHTS: measured on two cores of a Xeon with AMX, with 3 x 3 kernels and 320 to 2560 channels.
"""


def use_matrix_products(module: nn.Module) -> None:
    """Lets the plain convolutions in a module compute as matrix products (im2col) where that is faster.

    At every call oneDNN brings a convolution's weights into a layout of its own. Deep in a U-Net, where weights are
    many and positions few, that takes longer than the convolution; a matrix product reads the weights as they lie.
    Parameters, their names and the state dict stay as they are.
    """
    for layer in module.modules():
        if type(layer) is nn.Conv2d and _is_plain(layer):
            layer.__class__ = MatrixConv2d


class MatrixConv2d(nn.Conv2d):
    """A convolution that is computed as a matrix product if its weights are many, frozen and on a CPU.

    Its weights lie channels last, so that no copy of them is needed.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) as `nn.Conv2d` gives it; through a matrix product only `x` takes a gradient."""
        is_faster = self.weight.numel() >= MIN_WEIGHTS and x.numel() <= MAX_POSITIONS * self.in_channels
        if not is_faster or self._wants_weight_gradients() or not self._fits(x):
            return super().forward(x)
        assert isinstance(self.padding, tuple), "_is_plain"
        output: Tensor = Im2col.apply(x, self.weight, self.stride[0], self.padding[0])
        return output if self.bias is None else output + self.bias.view(1, -1, 1, 1)

    def _wants_weight_gradients(self) -> bool:
        return torch.is_grad_enabled() and any(weight.requires_grad for weight in self.parameters())

    def _fits(self, x: Tensor) -> bool:
        """Whether the matrix product can be taken as it stands: on a CPU, in one precision."""
        same = x.device.type == "cpu" and x.dtype == self.weight.dtype
        return same and not torch.is_autocast_enabled("cpu")


class Im2col(torch.autograd.Function):
    """A convolution as one matrix product.

    Each row of the left matrix is what the kernel sees at one position: its height, width and channels, in the order
    in which channels-last weights lie.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        """(b, c_out, h, w): `x` (b, c_in, h, w) through a kernel (c_out, c_in, side, side), without bias."""
        ctx.save_for_backward(weight)
        ctx.shape, ctx.stride, ctx.padding = x.shape, stride, padding
        side = weight.shape[2]
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, *(padding,) * 4))
        windows = padded.unfold(1, side, stride).unfold(2, side, stride)  # (b, height, width, channels, y, x)
        rows = windows.permute(0, 1, 2, 4, 5, 3).reshape(windows.shape[:3].numel(), -1)
        output = (_as_matrix(weight) @ rows.T).T  # faster than rows @ weights.T
        return output.reshape(*windows.shape[:3], -1).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """The gradient (b, c_in, h, w) with respect to `x`, of one with respect to the output; the kernel is frozen."""
        (weight,) = ctx.saved_tensors
        side, stride, padding = weight.shape[2], ctx.stride, ctx.padding
        batch, channels, height, width = ctx.shape
        positions = gradient.permute(0, 2, 3, 1)
        windows = positions.flatten(0, 2) @ _as_matrix(weight)
        windows = windows.view(*positions.shape[:3], side, side, channels)
        padded = gradient.new_zeros(batch, height + 2 * padding, width + 2 * padding, channels)
        down, across = (1 + stride * (count - 1) for count in positions.shape[1:3])
        for y in range(side):
            for x in range(side):
                padded[:, y : y + down : stride, x : x + across : stride] += windows[:, :, :, y, x]
        inside = padded[:, padding : padding + height, padding : padding + width]
        return inside.permute(0, 3, 1, 2), None, None, None


def _as_matrix(weight: Tensor) -> Tensor:
    """(c_out, side * side * c_in): a kernel (c_out, c_in, side, side); a view if it lies channels last."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def _is_plain(layer: nn.Conv2d) -> bool:
    """Whether it is a convolution such as U-Nets are made of: square, zero-padded, without groups and dilation."""
    square = all(
        isinstance(sides, tuple) and len(set(sides)) == 1
        for sides in (layer.kernel_size, layer.stride, layer.padding)
    )
    return square and layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"

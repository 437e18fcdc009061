"""Convolution weights kept in the layout that oneDNN computes with.

PyTorch hands oneDNN plain weights, and at every call oneDNN brings them into a blocked layout that suits the input's
shape. Where there are many weights and few places, as deep in a U-Net, that takes longer than the convolution itself;
frozen weights need it once. (torch.compile's option `freezing` does this too, without gradients.)
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input

ONCE = (1, 1)
"""The stride of most convolutions, and the dilation of all that are packed."""

MOST_PLACES = 1024
"""Places of a batch up to which packing pays; with more, the convolution itself takes nearly all the time."""


def pack_convolutions(module: nn.Module) -> None:
    """Turns the plain convolutions in a module into ones that keep packed weights while they compute on a CPU.

    Parameters, names and state dict stay as they are. What it costs in memory `packed_size` says.
    """
    for part in module.modules():
        if type(part) is nn.Conv2d and _is_plain(part):
            part.__class__ = PackedConv2d


def unpack_convolutions(module: nn.Module) -> None:
    """Makes them plain again, and lets go of packed weights."""
    for part in module.modules():
        if isinstance(part, PackedConv2d):
            part.__dict__.pop("_kept", None)
            part.__class__ = nn.Conv2d  # type: ignore[assignment]


def packed_size(module: nn.Module) -> int:
    """Bytes of a module's packed weights after gradients went through, at most; half of it if none do."""
    layers = (part for part in module.modules() if isinstance(part, PackedConv2d))
    return sum((1 + (layer.stride == ONCE)) * layer.weight.nbytes for layer in layers)


class PackedConv2d(nn.Conv2d):
    """A convolution that keeps packed weights for the input shape it met last, while its weights learn nothing.

    What it computes depends on input and weights alone, not on earlier calls.
    """

    padding: tuple[int, ...]  # no names: `_is_plain`

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Conv2d`'s, with gradients with respect to the input alone."""
        learns = torch.is_grad_enabled() and any(
            each.requires_grad for each in self._parameters.values() if each is not None
        )
        pays = x.numel() <= MOST_PLACES * self.in_channels
        if pays and not learns and x.dtype == self.weight.dtype and _computes(x):
            return _Convolution.apply(x, self)
        return super().forward(x)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes along: not the packed weights, which cannot be copied."""
        return {name: value for name, value in self.__dict__.items() if name != "_kept"}

    def convolved(self, x: Tensor) -> Tensor:
        """The convolution, without a gradient."""
        weight = self._packed(
            "forth", x.shape, lambda: _pack(self.weight, x.shape, self.padding, self.stride)
        )
        return _convolve(x, weight, self.bias, self.padding, self.stride)

    def gradient(self, output: Tensor, shape: torch.Size) -> Tensor:
        """The gradient of the output made into that of an input of some shape: a convolution with flipped weights."""
        if self.stride != ONCE:
            return conv2d_input(shape, self.weight, output, self.stride, self.padding)
        padding = tuple(side - 1 - zeros for side, zeros in zip(self.kernel_size, self.padding, strict=True))
        weight = self._packed(
            "back", output.shape, lambda: _pack(self._flipped(), output.shape, padding, ONCE)
        )
        return _convolve(output, weight, None, padding, ONCE)

    def _flipped(self) -> Tensor:
        return self.weight.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)

    def _packed(self, way: str, shape: torch.Size, make: Callable[[], Tensor]) -> Tensor:
        """What was kept for this shape and these weights, or else made now."""
        kept: dict[str, tuple[object, Tensor]] = self.__dict__.setdefault("_kept", {})
        key = (shape, self.weight.data_ptr(), self.weight._version)
        if way not in kept or kept[way][0] != key:
            kept.pop(way, None)  # first, so that there is never memory for both
            with torch.no_grad():
                kept[way] = key, make()
        return kept[way][1]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: PackedConv2d) -> Tensor:
        ctx.layer, ctx.shape = layer, x.shape
        return layer.convolved(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.gradient(gradient, ctx.shape), None


def _is_plain(layer: nn.Conv2d) -> bool:
    """Whether nothing about it is unusual for a U-Net."""
    usual = layer.groups == 1 and layer.dilation == ONCE and layer.padding_mode == "zeros"
    return usual and isinstance(layer.padding, tuple)


def _computes(x: Tensor) -> bool:
    """Whether oneDNN, if this PyTorch has it, computes with such a tensor on this processor."""
    if x.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    supported = torch.ops.mkldnn._is_mkldnn_bf16_supported
    return x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and bool(supported()))


def _pack(weight: Tensor, shape: torch.Size, padding: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Weights in the layout that oneDNN picks for an input of some shape."""
    reorder: Callable[..., Tensor] = torch._C._nn.mkldnn_reorder_conv2d_weight
    return reorder(weight.to_mkldnn(), padding, stride, ONCE, 1, shape)


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, ...], stride: tuple[int, ...]
) -> Tensor:
    """The convolution with packed weights, and nothing after it."""
    x = x.contiguous(memory_format=torch.channels_last)
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, padding, stride, ONCE, 1, "none", [], "")

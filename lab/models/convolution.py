"""Convolutions with many weights and few places, computed as matrix products.

oneDNN brings a convolution's weights into a layout of its own at every call. Deep in a U-Net, where weights are many
and places few, that takes longer than the convolution itself; a matrix product reads the weights as they lie.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LEAST_WEIGHTS = 2**21
"""Smaller weights are quickly laid out anew."""

MOST_PLACES = 256
"""Places of a batch up to which matrix products are faster; with more, laying out weights hardly counts.

Together with LEAST_WEIGHTS: measured on two cores of a Xeon with AMX, with 3 x 3 kernels and 320 to 2560 channels.
"""


def use_matrix_products(module: nn.Module) -> None:
    """Lets the plain convolutions in a module compute as matrix products where that is faster.

    Parameters, names and state dict stay as they are.
    """
    for part in module.modules():
        if type(part) is nn.Conv2d and _is_plain(part):
            part.__class__ = MatrixConv2d


class MatrixConv2d(nn.Conv2d):
    """A convolution on channels-last weights that uses a matrix product if they are many, frozen and on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Conv2d`'s, with gradients with respect to the input alone where a matrix product is used."""
        pays = self.weight.numel() >= LEAST_WEIGHTS and x.numel() <= MOST_PLACES * self.in_channels
        if not pays or self._learns() or not self._computes(x):
            return super().forward(x)
        assert isinstance(self.padding, tuple), "_is_plain"
        output: Tensor = _Convolution.apply(x, self.weight, self.stride[0], self.padding[0])
        return output if self.bias is None else output + self.bias.view(1, -1, 1, 1)

    def _learns(self) -> bool:
        return torch.is_grad_enabled() and any(each.requires_grad for each in self.parameters())

    def _computes(self, x: Tensor) -> bool:
        same = x.device.type == "cpu" and x.dtype == self.weight.dtype
        return same and not torch.is_autocast_enabled("cpu")


class _Convolution(torch.autograd.Function):
    """Each row of a matrix is what the kernel sees at one place: its height, width and channels, as weights lie."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, zeros: int) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.stride, ctx.zeros = x.shape, stride, zeros
        side = weight.shape[2]
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, *(zeros,) * 4))
        windows = padded.unfold(1, side, stride).unfold(2, side, stride)  # (b, height, width, channels, y, x)
        rows = windows.permute(0, 1, 2, 4, 5, 3).reshape(windows.shape[:3].numel(), -1)
        output = (_matrix(weight) @ rows.T).T  # faster than rows @ weights.T
        return output.reshape(*windows.shape[:3], -1).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        side, stride, zeros = weight.shape[2], ctx.stride, ctx.zeros
        batch, channels, height, width = ctx.shape
        places = gradient.permute(0, 2, 3, 1)
        windows = (places.flatten(0, 2) @ _matrix(weight)).view(*places.shape[:3], side, side, channels)
        padded = gradient.new_zeros(batch, height + 2 * zeros, width + 2 * zeros, channels)
        down, across = (1 + stride * (count - 1) for count in places.shape[1:3])
        for y in range(side):
            for x in range(side):
                padded[:, y : y + down : stride, x : x + across : stride] += windows[:, :, :, y, x]
        inside = padded[:, zeros : zeros + height, zeros : zeros + width]
        return inside.permute(0, 3, 1, 2), None, None, None


def _matrix(weight: Tensor) -> Tensor:
    """A row for each output channel; a view if weights lie channels last."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def _is_plain(layer: nn.Conv2d) -> bool:
    """Whether it is a convolution such as U-Nets are made of: square, without groups and dilation, zeros around."""
    square = all(
        isinstance(each, tuple) and len(set(each)) == 1
        for each in (layer.kernel_size, layer.stride, layer.padding)
    )
    return square and layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"

"""Whitened text states to learn from, and the same U-Net for the text states as they are.

Nine tenths of the text states' variance lie in six directions (background, main colours); what tells one object
from another is hidden in the small ones, and gradient descent is slow to find it. So the U-Net learns from states
with equal variance in every direction, W = (s - mean) A, and the map is folded into its cross-attention exactly:
keys and values take A into their weights; the mean shifts all keys alike, which softmax ignores, and shifts all
values alike, which the output's bias takes up.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor


@dataclass(frozen=True)
class Whitening:
    """s -> (s - mean) @ matrix; mean (d,), matrix (d, d), both float32."""

    mean: Tensor
    matrix: Tensor

    def __call__(self, states: Tensor) -> Tensor:
        """(..., d) -> (..., d) of about unit variance in every direction."""
        return (states - self.mean) @ self.matrix

    def to(self, device: str) -> Whitening:
        """The same on another device."""
        return Whitening(self.mean.to(device), self.matrix.to(device))


def measure(states: Tensor, floor: float, count: int = 1500) -> Whitening:
    """From `count` captions' states (n, 77, d); `floor` is the smallest variance that is raised to one."""
    every = max(1, len(states) // count)
    sample = states[::every].cpu().float().flatten(0, 1)
    mean = sample.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(sample.T))
    return Whitening(mean, vectors @ torch.diag(values.clamp_min(floor).rsqrt()) @ vectors.T)


def fold(unet: UNet2DConditionModel, whitening: Whitening) -> None:
    """Turn a U-Net for whitened states into one for plain states, in place (on the CPU)."""
    matrix, mean = whitening.matrix.cpu().double(), whitening.mean.cpu().double()
    _change_states(unet, matrix, -mean @ matrix)


def unfold(unet: UNet2DConditionModel, whitening: Whitening) -> None:
    """Turn a U-Net for plain states into one for whitened states, in place (on the CPU)."""
    _change_states(unet, whitening.matrix.cpu().double().inverse(), whitening.mean.cpu().double())


@torch.no_grad()
def _change_states(unet: UNet2DConditionModel, matrix: Tensor, shift: Tensor) -> None:
    """Make a U-Net that read s @ matrix + shift read s; `matrix` (d, d) and `shift` (d,) in float64."""
    for name, module in unet.named_modules():
        if not name.endswith("attn2"):
            continue
        seen = module.to_v.weight.double() @ shift
        module.to_out[0].bias += (module.to_out[0].weight.double() @ seen).float()
        for linear in (module.to_k, module.to_v):
            linear.weight.copy_((linear.weight.double() @ matrix.T).float())

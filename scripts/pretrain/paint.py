"""Scenes into pixels: icons over a background, then the degradation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from scripts.pretrain.degrade import DEGRADATIONS
from scripts.pretrain.scene import COLOURS, Placed, Scene


def _over(canvas: Tensor, icon: Tensor, placed: Placed) -> None:
    """Lay a premultiplied (4, h, w) icon over the (3, s, s) canvas, in place; what sticks out is cut off."""
    size = canvas.shape[-1]
    side = round(placed.side * size)
    if icon.shape[-1] != side:
        icon = F.interpolate(icon[None], (side, side), mode="bilinear", antialias=True)[0]
    left, top = round(placed.x * size - side / 2), round(placed.y * size - side / 2)
    cut_left, cut_top = max(0, -left), max(0, -top)
    icon = icon[:, cut_top : cut_top + size - max(top, 0), cut_left : cut_left + size - max(left, 0)]
    rows = slice(max(top, 0), max(top, 0) + icon.shape[1])
    columns = slice(max(left, 0), max(left, 0) + icon.shape[2])
    canvas[:, rows, columns] = canvas[:, rows, columns] * (1 - icon[3:]) + icon[:3]


def paint(scene: Scene, icons: dict[tuple[str, str], Tensor], size: int) -> Tensor:
    """A scene as (3, size, size) uint8.

    `icons`: (style, name) -> (4, h, w) uint8, colour premultiplied by opacity.
    """
    colour = torch.tensor(COLOURS[scene.background], dtype=torch.float32).view(3, 1, 1) / 255
    canvas = colour.expand(3, size, size).clone()
    for placed in scene.objects:
        _over(canvas, icons[scene.style, placed.name].float() / 255, placed)
    if scene.degradation:
        generator = torch.Generator().manual_seed(scene.seed)
        canvas = DEGRADATIONS[scene.degradation](canvas, generator)
    return (canvas * 255).round().clamp(0, 255).to(torch.uint8)

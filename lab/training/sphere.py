"""An optimizer that turns vectors and leaves their norms alone."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

KAPPA = 1e-4
"""How strongly the prior draws to the direction at which a vector began, against the loss."""


class Sphere(torch.optim.Optimizer):
    """Riemannian gradient descent on the direction of each vector, with a von Mises-Fisher prior.

    Directional Textual Inversion (2512.13672): a vector is e = m v with |v| = 1, and m stays. The gradient of the loss
    on v is m dL/de, and that of the prior, -log p(v) = -kappa <mu, v> + const, is -kappa mu, mu the direction at the
    first step. Their sum g is brought to unit length within the tangent space, g - <g, v> v, and subtracted; the result
    goes back to the sphere. (As in its published code, where nothing is remembered of earlier gradients: beta = 0.)

    Steps are as long as Adam's may be, the learning rate times the root of the width, so that learning rates mean the
    same for all optimizers: an angle of a is a rate of a m / sqrt(width).
    """

    def __init__(self, groups: Iterable[dict[str, Any]]):
        """Takes groups of parameters (n, width), each with a learning rate `lr` that would suit Adam."""
        super().__init__(groups, {"lr": 1e-3})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step down the gradients; a closure is not asked."""
        for group in self.param_groups:
            for rows in group["params"]:
                if rows.grad is not None:
                    self._turn(rows, group["lr"])

    def _turn(self, rows: Tensor, rate: float) -> None:
        """Turns `rows` (n, width) by steps of one length."""
        assert rows.grad is not None
        tiny = torch.finfo(rows.dtype).tiny
        norms = rows.norm(dim=1, keepdim=True).clamp_min(tiny)
        directions = rows / norms
        state = self.state[rows]
        if not state:
            state["prior"] = directions.clone()
        gradients = norms * rows.grad - KAPPA * state["prior"]
        tangent = gradients - (gradients * directions).sum(dim=1, keepdim=True) * directions
        tangent = tangent / tangent.norm(dim=1, keepdim=True).clamp_min(tiny)
        tangent *= rows.grad.any(dim=1, keepdim=True)  # not by the prior alone, whose steps would be as long
        turned = directions - rate * rows.shape[1] ** 0.5 / norms * tangent
        rows.copy_(turned / turned.norm(dim=1, keepdim=True) * norms)

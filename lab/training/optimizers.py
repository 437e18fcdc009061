"""Optimizers for few vectors in an ill-conditioned space."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
"""Adam's usual decay rates: of the mean gradient, and of its mean square."""

DECAY = 0.98
"""How much of the gradients' second moments between coordinates is kept at each step."""

FLOOR = 0.01
"""The share of the moments' mean eigenvalue that is added to every eigenvalue: it bounds steps in directions in which
there was hardly any gradient yet."""

ROOT_EVERY = 5
"""The inverse root, which takes longer than the rest, is computed anew at every so many steps, and at each of as many
first ones."""


NOT_THERE = {"mps"}
"""Devices that cannot find eigenvalues; the others do it where the moments are."""

KAPPA = 1e-4
"""How strongly the prior draws to the direction at which a vector began, against the loss."""


class VectorOptimizer(torch.optim.Optimizer):
    """Moves each parameter as a whole: rows of vectors, (n, width)."""

    def __init__(self, groups: Iterable[dict[str, Any]]):
        """Takes groups of parameters (n, width), each with a learning rate `lr` that would suit Adam."""
        super().__init__(groups, {"lr": 1e-3})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step down the gradients; a closure is not asked."""
        for group in self.param_groups:
            for rows in group["params"]:
                if rows.grad is not None:
                    self._move(rows, rows.grad, group["lr"])

    @abstractmethod
    def _move(self, rows: Tensor, gradient: Tensor, rate: float) -> None:
        """Moves `rows` in place."""


class Shampoo(VectorOptimizer):
    """Shampoo on the side of the width (Gupta et al., 1802.09568), with steps as long as Adam's (2002.11803, grafting).

    Few directions hold most of what a text encoder's vectors can change (its states lie in a narrow cone), and Adam,
    which scales each coordinate alone, walks along them slowly. Here the mean gradient (n, width) is multiplied with
    the inverse square root of the gradients' (width, width) second moments, which scales every direction.
    """

    def _move(self, rows: Tensor, gradient: Tensor, rate: float) -> None:
        rows.sub_(rate * self._direction(rows, gradient))

    def _direction(self, rows: Tensor, gradient: Tensor) -> Tensor:
        """What is subtracted from `rows` (n, width) at a learning rate of 1: as long as Adam's step."""
        state = self.state[rows]
        if not state:
            state.update(_initial_state(rows))
        state["step"] += 1
        count = int(state["step"])
        state["mean"].lerp_(gradient, 1 - BETAS[0])
        state["square"].lerp_(gradient.square(), 1 - BETAS[1])
        state["moments"].lerp_(gradient.T @ gradient, 1 - DECAY)
        if count <= ROOT_EVERY or count % ROOT_EVERY == 0:
            state["root"] = inverse_root(state["moments"])
        mean = state["mean"] / (1 - BETAS[0] ** count)
        spread = (state["square"] / (1 - BETAS[1] ** count)).sqrt()
        adam = mean / spread.clamp_min(torch.finfo(spread.dtype).tiny)
        direction: Tensor = mean @ state["root"]
        return direction * (adam.norm() / direction.norm().clamp_min(torch.finfo(spread.dtype).tiny))


def inverse_root(moments: Tensor) -> Tensor:
    """(width, width): (M + FLOOR * mean eigenvalue)^(-1/2) of a symmetric M of that shape, up to a factor: M's scale is
    left out."""
    scale = moments.diagonal().mean().clamp_min(torch.finfo(moments.dtype).tiny)
    matrix = moments / scale
    values, vectors = torch.linalg.eigh(matrix.cpu() if matrix.device.type in NOT_THERE else matrix)
    return ((vectors * (values.clamp_min(0) + FLOOR).rsqrt()) @ vectors.T).to(moments.device)


def _initial_state(rows: Tensor) -> dict[str, Tensor]:
    width = rows.shape[1]
    return {
        "step": torch.zeros((), device="cpu"),
        "mean": torch.zeros_like(rows),
        "square": torch.zeros_like(rows),
        "moments": rows.new_zeros(width, width),
        "root": rows.new_zeros(width, width),
    }


class Sphere(VectorOptimizer):
    """Riemannian gradient descent on the direction of each vector, with a von Mises-Fisher prior.

    Directional Textual Inversion (2512.13672): a vector is e = m v with |v| = 1, and m stays. The gradient of the loss
    on v is m dL/de, and that of the prior, -log p(v) = -kappa <mu, v> + const, is -kappa mu, mu the direction at the
    first step. Their sum g is brought to unit length within the tangent space, g - <g, v> v, and subtracted; the result
    goes back to the sphere. (As in its published code, where nothing is remembered of earlier gradients: beta = 0.)

    Steps are as long as Adam's may be, the learning rate times the root of the width, so that learning rates mean the
    same for all optimizers: an angle of a is a rate of a m / sqrt(width).
    """

    def _move(self, rows: Tensor, gradient: Tensor, rate: float) -> None:
        tiny = torch.finfo(rows.dtype).tiny
        norms = rows.norm(dim=1, keepdim=True).clamp_min(tiny)
        directions = rows / norms
        state = self.state[rows]
        if not state:
            state["prior"] = directions.clone()
        gradients = norms * gradient - KAPPA * state["prior"]
        tangent = gradients - (gradients * directions).sum(dim=1, keepdim=True) * directions
        tangent = tangent / tangent.norm(dim=1, keepdim=True).clamp_min(tiny)
        tangent *= gradient.any(dim=1, keepdim=True)  # not by the prior alone, whose steps would be as long
        turned = directions - rate * rows.shape[1] ** 0.5 / norms * tangent
        rows.copy_(turned / turned.norm(dim=1, keepdim=True) * norms)

"""An optimizer for few vectors in an ill-conditioned space."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
"""Adam's own, of the mean gradient and the mean square."""

DECAY = 0.98
"""Of the gradients' second moments between coordinates, at each step."""

FLOOR = 0.01
"""Of the moments' mean eigenvalue, added to each: directions that no gradient had yet are not trusted any further."""

FRESH_FOR = 5
"""Steps between two inverse roots, which take longer than the rest; the first steps each have their own."""


class Shampoo(torch.optim.Optimizer):
    """Shampoo on the side of the width (Gupta et al., 1802.09568), with steps as long as Adam's (2002.11803, grafting).

    Few directions hold most of what a text encoder's vectors can change (its states lie in a narrow cone), and Adam,
    which scales each coordinate alone, walks along them slowly. Here the mean gradient (n, width) is multiplied with
    the inverse square root of the gradients' (width, width) second moments, which scales every direction.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]):
        """Takes groups of parameters (n, width), each with its learning rate `lr`: Adam's would do."""
        super().__init__(groups, {"lr": 1e-3})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step down the gradients; a closure is not asked."""
        for group in self.param_groups:
            for rows in group["params"]:
                if rows.grad is not None:
                    rows.sub_(group["lr"] * self._direction(rows))

    def _direction(self, rows: Tensor) -> Tensor:
        """(n, width), to be subtracted: as long as Adam's."""
        state, gradient = self.state[rows], rows.grad
        assert gradient is not None
        if not state:
            state.update(_nothing_seen(rows))
        state["step"] += 1
        count = int(state["step"])
        state["mean"].lerp_(gradient, 1 - BETAS[0])
        state["square"].lerp_(gradient.square(), 1 - BETAS[1])
        state["moments"].lerp_(gradient.T @ gradient, 1 - DECAY)
        if count <= FRESH_FOR or count % FRESH_FOR == 0:
            state["root"] = inverse_root(state["moments"])
        mean = state["mean"] / (1 - BETAS[0] ** count)
        spread = (state["square"] / (1 - BETAS[1] ** count)).sqrt()
        adam = mean / spread.clamp_min(torch.finfo(spread.dtype).tiny)
        direction: Tensor = mean @ state["root"]
        return direction * (adam.norm() / direction.norm().clamp_min(torch.finfo(spread.dtype).tiny))


def inverse_root(moments: Tensor) -> Tensor:
    """(M + FLOOR * mean eigenvalue)^(-1/2) of a symmetric (width, width) M, up to a factor: M's scale is left out."""
    scale = moments.diagonal().mean().clamp_min(torch.finfo(moments.dtype).tiny)
    values, vectors = torch.linalg.eigh((moments / scale).cpu())  # not every device can
    return ((vectors * (values.clamp_min(0) + FLOOR).rsqrt()) @ vectors.T).to(moments.device)


def _nothing_seen(rows: Tensor) -> dict[str, Tensor]:
    width = rows.shape[1]
    return {
        "step": torch.zeros((), device="cpu"),
        "mean": torch.zeros_like(rows),
        "square": torch.zeros_like(rows),
        "moments": rows.new_zeros(width, width),
        "root": rows.new_zeros(width, width),
    }

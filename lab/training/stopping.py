"""When to stop: the objective on fixed examples has settled (DVAR)."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import pvariance


@dataclass(frozen=True)
class Stopping:
    """DVAR (2302.04841, section 4): stop when var(last window) / var(all) falls below a ratio.

    The loss of each step depends on its timesteps and noise more than on what was learned. On the same images,
    noise, timesteps and captions every time, the objective shows convergence.

    Attributes:
        window: Evaluations in the window.
    """

    window: int
    ratio: float

    def settled(self, evaluations: Sequence[float]) -> bool:
        """Whether the objective has settled, given all its values so far in order."""
        if len(evaluations) < 2 * self.window:
            return False
        return pvariance(evaluations[-self.window :]) < self.ratio * pvariance(evaluations)

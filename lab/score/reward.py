"""Rewards: weighted sums of the metrics that rate a single image."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lab.errors import InputError, did_you_mean
from lab.score.metrics import METRICS

if TYPE_CHECKING:
    from torch import Tensor

    from lab.score.tools import Batch, Tools

SMALLEST = 1e-7
"""Probabilities are not taken to be smaller than this, where their logarithm counts."""


def read_weights(texts: Sequence[str]) -> dict[str, float]:
    """Metrics written as NAME or NAME=WEIGHT, with their weights (1 by default).

    Raises:
        InputError: no metric, an unknown one (with the nearest names), or a weight that is no number above 0.
    """
    weights: dict[str, float] = {}
    for text in texts:
        name, _, number = text.partition("=")
        if name not in METRICS:
            raise InputError(f"reward: unknown metric '{name}'{did_you_mean(name, METRICS)}")
        try:
            weights[name] = float(number or 1)
        except ValueError:
            weights[name] = 0.0
        if not 0 < weights[name] < float("inf"):
            raise InputError(f"reward: '{text}': expected NAME or NAME=WEIGHT with a number above 0")
    if not weights:
        raise InputError("reward: there is none; give a metric with --reward")
    return weights


class Reward:
    """A weighted sum of metrics, each turned so that more is better; probabilities count by their logarithm.

    So the log-likelihood of a clean image is what `degraded` contributes: its gradient does not vanish where the
    classifier is sure that an image is bad.
    """

    def __init__(self, weights: Mapping[str, float], tools: "Tools", differentiable: bool = False):
        """Checks that the metrics can serve.

        Args:
            differentiable: Gradients with respect to the pixels are needed.

        Raises:
            InputError: a metric that lacks what it needs, rates no single image, calls nothing better, or is not
                differentiable although it has to be.
        """
        for name in weights:
            metric = METRICS[name]
            reason = tools.why_not(metric.needs)
            if reason:
                raise InputError(f"reward: '{name}' cannot run here: {reason}")
            if metric.over != "image" or metric.paired or not metric.better:
                raise InputError(
                    f"reward: '{name}' does not say of a single image how good it is; take another"
                )
            if differentiable and not metric.differentiable:
                raise InputError(
                    f"reward: '{name}' is not differentiable, so that nothing can be learned from it; take another"
                )
        self._weights = weights
        self._tools = tools

    def __call__(self, batch: "Batch") -> "Tensor":
        """(n,) rewards of a batch's images; differentiable with respect to its pixels if the metrics are."""
        import torch

        return torch.stack([weight * _utility(name, batch) for name, weight in self._weights.items()]).sum(0)

    def batch(self, pixels: "Tensor", texts: Sequence[str]) -> "Batch":
        """A batch that the reward can measure: pixels (n, 3, H, W) in 0..1 and n texts."""
        from lab.score.tools import Batch

        return Batch(self._tools, pixels, texts)


def _utility(name: str, batch: "Batch") -> "Tensor":
    """(n,) values of a metric, turned so that more is better; of probabilities the logarithm."""
    metric = METRICS[name]
    value = metric.compute(batch)
    if metric.unit == "probability":
        return (value if metric.better > 0 else 1 - value).clamp_min(SMALLEST).log()
    return metric.better * value

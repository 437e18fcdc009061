"""From choices between two to a ranking, and to which metric chooses alike: pure arithmetic on counts."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lab.comparing.statistics import CONFIDENCE

Array = NDArray[np.float64]

ROUNDS, CLOSE, LONGEST = 200, 1e-10, 1.0
"""Of Fisher scoring: rounds at most, the step at which it has arrived, and the longest step, in log odds."""


@dataclass(frozen=True)
class Strengths:
    """How strongly items are preferred.

    Attributes:
        values: (n,) log odds, of mean 0: item i is preferred to j with probability 1 / (1 + exp(value j - value i)).
        covariance: (n, n) of these.
    """

    values: Array
    covariance: Array

    def share(self, item: int, other: int) -> tuple[float, float, float]:
        """How often an item would be preferred to another, 0 to 1, with the ends of the 95 % interval."""
        places, reach = [item, other], float(stats.norm.isf((1 - CONFIDENCE) / 2))
        difference = self.values[item] - self.values[other]
        square = self.covariance[np.ix_(places, places)]
        arm = reach * np.sqrt(square[0, 0] + square[1, 1] - 2 * square[0, 1])
        return tuple(float(_chance(value)) for value in (difference, difference - arm, difference + arm))  # type: ignore[return-value]


def bradley_terry(wins: Array) -> Strengths:
    """The strengths that explain choices between two (Bradley & Terry 1952), with Firth's (1993) correction.

    Likelihood alone has no maximum where an item won always, as after a few votes one often has. Firth's correction
    gives each choice a part of a tie, all together one for each item beyond the first: estimates are finite and nearly
    without bias. Of two items it adds half a choice to either side, and the interval is Gart's (1966). Choices count as
    independent: intervals hold for those of the same person among the same images, not for other persons and prompts.

    Args:
        wins: (n, n), how often item i was preferred to j; every item is connected to every other by choices.
    """
    counts, values = wins + wins.T, np.zeros(len(wins))
    for _ in range(ROUNDS):
        chances = _chance(values[:, None] - values[None, :])
        leverage = _leverage(counts, chances)
        score = (wins - counts * chances + leverage * (0.5 - chances)).sum(axis=1)
        step = np.clip(_covariance(counts * chances * chances.T) @ score, -LONGEST, LONGEST)
        values = values + step
        if np.abs(step).max(initial=0.0) < CLOSE:
            break
    chances = _chance(values[:, None] - values[None, :])
    information = (counts + _leverage(counts, chances)) * chances * chances.T
    return Strengths(values - values.mean(), _covariance(information))


def connected(wins: Array, item: int) -> list[int]:
    """The items that choices connect to one, with it, in order; others cannot be held against it."""
    counts, found = wins + wins.T, {item}
    while more := {int(other) for one in found for other in np.flatnonzero(counts[one])} - found:
        found |= more
    return sorted(found)


def proportion(some: int, among: int) -> tuple[float, float, float]:
    """The 95 % interval of a share (Wilson 1927), in 0..1, and the two-sided exact p of its being a half."""
    test = stats.binomtest(some, among)
    low, high = test.proportion_ci(CONFIDENCE, method="wilson")
    return float(low), float(high), float(test.pvalue)


def _chance(difference: Array) -> Array:
    return 1 / (1 + np.exp(-difference))


def _leverage(counts: Array, chances: Array) -> Array:
    """(n, n) of how many parameters the choices between two items decide; n - 1 over all pairs."""
    information = counts * chances * chances.T
    covariance = _covariance(information)
    own = covariance.diagonal()
    return information * (own[:, None] + own[None, :] - 2 * covariance)


def _covariance(information: Array) -> Array:
    """Of strengths of mean 0, from what is known of each difference (n, n)."""
    laplacian = np.diag(information.sum(axis=1)) - information
    return np.asarray(np.linalg.pinv(laplacian, hermitian=True), dtype=np.float64)

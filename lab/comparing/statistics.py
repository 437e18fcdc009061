"""How large an effect is and how sure we are: pure arithmetic on differences of pairs.

Pairs are nested: a prompt has one pair for each seed. Differences come as an array (prompts, seeds). Prompts are
what another experiment would draw anew, so that the unit is the prompt: the mean over its seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95

FEWEST = 6
"""Pairs below which there is neither interval nor p: skewed differences would not be held as often as is said."""

FEW, MARGIN = 12, 1.25
"""Of fewer units p is that many times larger, and the interval as much wider: skewness cannot be seen in so few."""

STEEPEST, SKEWEST = 0.9, 1.0
"""Largest skewness that is believed: times the quantile by sqrt(n), as at 1 one end of the interval would run away; and
itself, as a few large differences of a symmetric law look like more."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """What a variant changes.

    Attributes:
        difference: Mean paired difference from the baseline.
        low, high: Its 95 % interval, or None where the data cannot give one.
        p: Of the hypothesis that the mean is zero, not corrected: at most 0.05 if and only if the interval leaves out
            zero. None where there is no interval.
        win_rate: Share of pairs that are higher than the baseline, ties counted half.
        n: Pairs.
        equal: Pairs of them that do not differ at all.
    """

    difference: float
    low: float | None
    high: float | None
    p: float | None
    win_rate: float
    n: int
    equal: int


def measure(differences: Array) -> Effect:
    """The effect in paired differences: mean, 95 % interval, p and win rate.

    Args:
        differences: (prompts, seeds), the variant's value less the baseline's with the same prompt and noise. The
            units are the prompts' means; of a single prompt they are its seeds, and interval and p speak of it alone.
    """
    differences = np.asarray(differences, dtype=np.float64)
    pairs, units = differences.ravel(), prompt_means(differences)
    equal = int((pairs == 0).sum())
    low: float | None = None
    high, p = low, low
    if len(pairs) >= FEWEST and equal == len(pairs):
        low, high, p = 0.0, 0.0, 1.0
    elif len(pairs) >= FEWEST and varies(units):
        low, high = map(float, interval(units))
        p = float(p_value(units))
    wins = float((pairs > 0).mean() + equal / len(pairs) / 2)
    return Effect(float(pairs.mean()), low, high, p, wins, len(pairs), equal)


def prompt_means(differences: Array) -> Array:
    """The units (n,) in differences (prompts, seeds): each prompt's mean, or of a single prompt its seeds."""
    return differences.mean(axis=1) if len(differences) > 1 else differences[0]


def varies(units: Array) -> bool:
    """Whether units differ by more than rounding, so that their spread says something."""
    return len(units) > 1 and bool(np.ptp(units) > 1e-9 * np.abs(units).max())


def interval(units: Array) -> tuple[Array, Array]:
    """The 95 % intervals of the means of independent units (..., n): Student's t, mended for their skewness.

    Hall (1992), On the removal of skewness by transformation: with W = mean / sd and the skewness g,
    T = sqrt(n) (W + g W^2 / 3 + g^2 W^3 / 27 + g / (6 n)) is nearer to Student's t than sqrt(n) W is, and grows with
    W. Below 12 units the quantile is that of 96 %. From 6 pairs on, normal, exponential and heavy-tailed differences of
    pairs, which vary between prompts as much as between seeds or not at all, are held in 93 to 97 % of experiments;
    `scripts/sim_intervals.py` prints how often.

    Returns:
        Low and high ends, (...) each.
    """
    mean = units.mean(axis=-1)
    below, above = _arms(units)
    return mean - below, mean + above


def p_value(units: Array) -> Array:
    """Two-sided p (...), in 0..1, of the hypotheses that independent units (..., n) have the mean zero.

    Of Student's t, with the standard error for which the interval's arm towards zero stands: p is at most 0.05 if and
    only if the interval leaves out zero.
    """
    count, mean = units.shape[-1], units.mean(axis=-1)
    below, above = _arms(units)
    towards_zero = np.where(mean > 0, below, above)
    tails = 2 * stats.t.sf(_quantile(count) * np.abs(mean) / towards_zero, count - 1)
    return np.minimum(tails * _margin(count), 1.0)


def _arms(units: Array) -> tuple[Array, Array]:
    """How far the intervals reach below and above the means."""
    count, centred = units.shape[-1], units - units.mean(axis=-1, keepdims=True)
    square, bound = (centred**2).mean(axis=-1), _quantile(count) / np.sqrt(count)
    most = min(STEEPEST / bound, SKEWEST)
    skew = np.clip((centred**3).mean(axis=-1) / square**1.5, -most, most)
    spread = np.sqrt(square * count / (count - 1))
    below, above = (_untransformed(side - skew / (6 * count), skew) for side in (bound, -bound))
    return spread * below, -spread * above


def _untransformed(value: Array, skew: Array) -> Array:
    """The W of W + g W^2 / 3 + g^2 W^3 / 27 = ((1 + g W / 3)^3 - 1) / g."""
    some = np.where(np.abs(skew) < 1e-6, 1.0, skew)
    return np.where(np.abs(skew) < 1e-6, value, 3 / some * (np.cbrt(1 + some * value) - 1))


def _quantile(count: int) -> float:
    """Of Student's t, up to which its absolute value is thought to be chance."""
    return float(stats.t.isf((1 - CONFIDENCE) / _margin(count) / 2, count - 1))


def _margin(count: int) -> float:
    return MARGIN if count < FEW else 1.0


PRIOR = 0.5
"""Variance of the effects, in units of the spread, that `anytime_interval` is narrowest for: 0.7 sd and less."""


def anytime_interval(units: Array, tests: int = 1) -> tuple[Array, Array]:
    """95 % intervals of the means of independent units (..., n) that hold at every n at once, however one stops.

    Student's t, mixed over effects of variance 0.5 sd^2 (Robbins' mixture with the spread unknown: Lai 1976; Wang &
    Ramdas 2310.03722): the means that the data disfavour by less than 20 to 1. It is exact for normal units; asked in
    blocks of eight, it errs on skewed ones no more often than it says (`scripts/sim_judge.py`). Unlike alpha spending
    it needs no last look, so that a run may be given more prompts. Infinite where units are too few.

    Args:
        tests: Of how many intervals all shall hold together (Bonferroni).

    Returns:
        Low and high ends, (...) each.
    """
    count, mean = units.shape[-1], units.mean(axis=-1)
    reach = units.std(axis=-1, ddof=1) * anytime_reach(np.array(count), tests)
    return mean - reach, mean + reach


def anytime_reach(count: NDArray[np.int64], tests: int = 1) -> Array:
    """How far `anytime_interval` reaches from the mean of so many units, in standard deviations of a unit."""
    grown = 1 + count * PRIOR
    least = (grown * (tests / (1 - CONFIDENCE)) ** 2) ** (1 / count)
    with np.errstate(divide="ignore", invalid="ignore"):
        square = (least - 1) / (1 - least / grown)
    return np.where(least < grown, np.sqrt(np.abs(square) * (count - 1) / count), np.inf)


def units_needed(spread: float, difference: float) -> int:
    """Units after which `anytime_interval` will tell an effect of this size from none in four runs of five.

    Args:
        spread: Standard deviation of a unit, as far as it is known.
    """
    counts = np.arange(2, 1_000_000)
    sure = (anytime_reach(counts) + stats.norm.ppf(0.8) / np.sqrt(counts)) * spread <= difference
    return int(counts[sure.argmax()]) if sure.any() else len(counts)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """The p-values in their order, corrected for their number (Holm 1979); None stays None and does not count."""
    known = sorted((p, place) for place, p in enumerate(values) if p is not None)
    corrected: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (value, place) in enumerate(known):
        largest = max(largest, min(value * (len(known) - rank), 1.0))
        corrected[place] = largest
    return corrected

"""How large an effect is and how sure we are: pure arithmetic on differences of pairs.

Pairs are nested: a prompt has one pair for each seed. Differences come as an array (prompts, seeds).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 10_000
CHUNK = 2_000_000
"""Values drawn at a time, to bound memory."""

FEWEST = 6
"""Values from which resampling gives a 95 % interval: the range of n covers the median with 1 - 2^(1 - n)."""

EXACT = 12
"""Up to so many pairs all sign flips are tried, instead of a random sample of them."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """What a variant changes.

    Attributes:
        difference: Mean paired difference from the baseline.
        low, high: Its 95 % interval, or None where the data cannot give one.
        p: Of the sign-flip test, not corrected; None for fewer than two pairs.
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


def measure(differences: Array, seed: int = 0) -> Effect:
    """The effect in paired differences: mean, 95 % interval, p and win rate.

    Args:
        differences: (prompts, seeds), the variant's value less the baseline's with the same prompt and noise. From
            two seeds on there is an interval; with one prompt it speaks of that prompt alone. A metric that has one
            value for all seeds of a prompt has (1, prompts) differences: its pairs are the prompts.
        seed: Of the resampling; the same data and seed give the same numbers.
    """
    differences = np.asarray(differences, dtype=np.float64)
    pairs = differences.ravel()
    generator = np.random.default_rng(seed)
    low, high = bootstrap(differences, generator) if differences.shape[1] > 1 else (None, None)
    p = sign_flip(pairs, generator) if len(pairs) > 1 else None
    equal = int((pairs == 0).sum())
    wins = float((pairs > 0).mean() + equal / len(pairs) / 2)
    return Effect(float(pairs.mean()), low, high, p, wins, len(pairs), equal)


def bootstrap(differences: Array, generator: np.random.Generator) -> tuple[float, float]:
    """The 95 % interval of the mean of differences (prompts, seeds), by resampling prompts, then seeds within each.

    Davison & Hinkley (1997), section 3.8. What seeds vary counts twice, which about makes up for the narrowness of
    percentiles when prompts are few; where the effect differs between prompts as much as between seeds, 2 prompts
    cover 71 to 79 %, 4 prompts 83 to 88 %, 8 prompts 91 to 93 %, and 16 prompts 93 to 96 %. With a single prompt
    nothing makes up for it: the percentiles are widened as Hesterberg (2015), section 5.2, does, and fewer than 6
    values, whose whole range is no 95 % interval, get Student's t.
    """
    prompts, seeds = differences.shape
    if prompts == 1 and seeds < FEWEST:
        half = stats.t.ppf((1 + CONFIDENCE) / 2, seeds - 1) * differences.std(ddof=1) / np.sqrt(seeds)
        return float(differences.mean() - half), float(differences.mean() + half)
    some = max(CHUNK // differences.size, 1)
    means = np.concatenate(
        [
            _resampled(differences, min(some, RESAMPLES - done), generator)
            for done in range(0, RESAMPLES, some)
        ]
    )
    tail = (1 - CONFIDENCE) / 2
    if prompts == 1:
        tail = stats.norm.cdf(np.sqrt(seeds / (seeds - 1)) * stats.t.ppf(tail, seeds - 1))
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _resampled(differences: Array, count: int, generator: np.random.Generator) -> Array:
    prompts, seeds = differences.shape
    chosen = generator.integers(0, prompts, (count, prompts, 1))
    return differences[chosen, generator.integers(0, seeds, (count, prompts, seeds))].mean(axis=(1, 2))


def sign_flip(pairs: Array, generator: np.random.Generator) -> float:
    """Two-sided p, in 0..1, of the permutation test that swaps the sides of pairs (Good 2005, section 3.2).

    Under the null hypothesis it makes no difference which image of a pair is the variant's. All swaps are tried
    for up to 12 pairs; beyond, 10,000 random ones, and the data's own counts among them.

    Args:
        pairs: (n,) differences, one a pair.
    """
    count = len(pairs)
    observed = abs(pairs.mean()) * (1 - 1e-12)  # sums in another order differ in the last digit
    if count <= EXACT:
        signs = 1 - 2 * (np.arange(2**count)[:, None] >> np.arange(count) & 1)
        return float((np.abs(signs @ pairs) / count >= observed).mean())
    some = max(CHUNK // count, 1)
    extreme = 0
    for done in range(0, RESAMPLES, some):
        signs = generator.integers(0, 2, (min(some, RESAMPLES - done), count), dtype=np.int8) * 2 - 1
        extreme += int((np.abs(signs @ pairs) / count >= observed).sum())
    return (1 + extreme) / (1 + RESAMPLES)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """The p-values in their order, corrected for their number (Holm 1979); None stays None and does not count."""
    known = sorted((p, place) for place, p in enumerate(values) if p is not None)
    corrected: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (value, place) in enumerate(known):
        largest = max(largest, min(value * (len(known) - rank), 1.0))
        corrected[place] = largest
    return corrected

"""What is known of an effect after so many prompts, and whether that answers the question: pure arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lab.comparing.statistics import (
    Array,
    anytime_interval,
    anytime_reach,
    prompt_means,
    units_needed,
    varies,
)

Answer = Literal["helps", "harms", "raises", "lowers", "makes no difference that matters", "undecided"]

NOTHING_FROM = 32
"""Prompts from which an effect may be called smaller than what matters: one that few prompts show is seen late."""


@dataclass(frozen=True)
class Look:
    """An effect as it stands after some prompts.

    Attributes:
        prompts: So many.
        difference: Mean over them.
        low, high: An interval that holds the effect however often one looks (`anytime_interval`), or None where the
            prompts are too few or do not differ.
    """

    prompts: int
    difference: float
    low: float | None
    high: float | None

    def answer(self, better: int, smallest: float) -> Answer:
        """What the interval says.

        Args:
            better: 1 if a higher value is better, -1 if a lower one is, 0 if neither.
            smallest: The smallest difference that matters.
        """
        if self.low is None or self.high is None:
            return "undecided"
        if self.prompts >= NOTHING_FROM and max(-self.low, self.high) < smallest:
            return "makes no difference that matters"
        if self.low <= 0 <= self.high:
            return "undecided"
        if not better:
            return "raises" if self.low > 0 else "lowers"
        return "helps" if self.low * better > 0 else "harms"


def take_look(differences: Array, tests: int = 1) -> Look:
    """The effect in differences (prompts, seeds): of how many `tests` all shall hold together is taken account of."""
    units, prompts = prompt_means(differences), len(differences)
    difference = float(differences.mean())
    if prompts < 2 or not varies(units) or np.isinf(anytime_reach(np.array(prompts), tests)):
        return Look(prompts, difference, None, None)
    low, high = anytime_interval(units, tests)
    return Look(prompts, difference, float(low), float(high))


def forecast(differences: Array, smallest: float, most: int) -> str | None:
    """How many pairs a difference will need, by the spread of the first prompts; None where they do not differ.

    Args:
        differences: (prompts, seeds) of the first block.
        most: Prompts that there are.
    """
    units, seeds = prompt_means(differences), differences.shape[1]
    if not varies(units):
        return None
    spread = float(units.std(ddof=1))
    counts = {size: units_needed(spread, size) for size in (smallest, 2 * smallest, 5 * smallest)}
    needed = (f"of {size:g} takes about {count * seeds:,} ({count:,})" for size, count in counts.items())
    return f"Pairs (prompts) until a difference is sure: {', '.join(needed)}; there are {most} prompts."


def ranks(values: Sequence[Array], better: int) -> list[int]:
    """The ranks, from 1, of things by their values (prompts, seeds) each: one more than how many are surely better.

    Those that share a rank are tied: nothing says which is better. All comparisons hold together.
    """
    pairs = max(len(values) * (len(values) - 1) // 2, 1)

    def beaten(one: Array, other: Array) -> bool:
        look = take_look(other - one, pairs)
        return (
            look.low is not None and look.high is not None and min(look.low * better, look.high * better) > 0
        )

    return [1 + sum(beaten(one, other) for other in values if other is not one) for one in values]

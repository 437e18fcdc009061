"""The effects in words: one sentence a metric and variant."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lab.comparing.experiment import Experiment
from lab.score.metrics import METRICS, Metric

FEW = 8
"""Prompts from which the intervals come close to what they promise (see `statistics.bootstrap`)."""

SIGNIFICANT = 0.05
"""Corrected p up to which an effect that its interval shows is stressed."""


@dataclass(frozen=True)
class Answer:
    """One effect in a sentence.

    Attributes:
        clear: Whether the interval leaves out zero and the corrected p is small (never of similarities to the
            baseline, which every change lowers).
    """

    metric: str
    variant: str
    text: str
    clear: bool


def question(experiment: Experiment) -> str:
    """What the experiment asks."""
    others = [variant.name for variant in experiment.variants if variant is not experiment.baseline]
    prompts, seeds = len(experiment.prompts), len(experiment.seeds)
    asked = f"`{others[0]}`" if len(others) == 1 else f"each of {len(others)} variants"
    return (
        f"What does {asked} change against the baseline `{experiment.baseline.name}`? "
        f"{_count(prompts, 'prompt')} x {_count(seeds, 'seed')} = {_count(experiment.pairs, 'pair')} of images "
        f"with the same prompt and noise."
    )


def answers(experiment: Experiment, effects: Sequence[dict[str, Any]]) -> list[Answer]:
    """A sentence for each row of the effects, in their order."""
    return [
        Answer(row["metric"], row["variant"], _sentence(experiment, row), _is_news(row)) for row in effects
    ]


def caveats(experiment: Experiment) -> list[str]:
    """What the experiment cannot say."""
    found = []
    if len(experiment.seeds) < 2:
        found.append("There is one seed, so there are no intervals: give two seeds or more.")
    elif len(experiment.prompts) < 2:
        found.append("There is one prompt: the intervals speak of it alone, not of prompts like it.")
    elif len(experiment.prompts) < FEW:
        found.append(
            f"There are {len(experiment.prompts)} prompts: with so few, intervals that are called 95 % hold the effect "
            f"on prompts like these in 70 to 90 % of experiments; from {FEW} prompts on they come close."
        )
    return found


def _is_news(row: dict[str, Any]) -> bool:
    if METRICS[row["metric"]].paired:
        return False
    return is_clear(row) and (row["p"] is None or row["p"] <= SIGNIFICANT)


def is_clear(row: dict[str, Any]) -> bool:
    """Whether the interval of an effect leaves out zero."""
    return row["low"] is not None and (row["low"] > 0 or row["high"] < 0)


def _sentence(experiment: Experiment, row: dict[str, Any]) -> str:
    metric = METRICS[row["metric"]]
    name = f"`{row['variant']}`"
    if metric.paired:
        value = number(1 + row["difference"], signed=False)
        interval = _interval(row["low"], row["high"], shift=1)
        return f"{name}: {metric.label} is {value}{interval} on average; 1 would be the same image."
    size = number(abs(row["difference"]), signed=False)
    verb = "raises" if row["difference"] > 0 else "lowers"
    if row["low"] is None:
        why = "one value for all images" if metric.over == "variant" else "one seed"
        interval = f" (no interval: {why})"
        text = f"{name} {verb} {metric.label} by {size}{interval}"
    elif is_clear(row):
        low, high = sorted((abs(row["low"]), abs(row["high"])))
        text = f"{name} {verb} {metric.label} by {size}{_interval(low, high)}"
    else:
        interval = _interval(row["low"], row["high"])
        text = f"{name} does not clearly change {metric.label}: {number(row['difference'])}{interval}"
    return f"{text}{_wins(row, metric)}{_p(row['p'])}."


def _wins(row: dict[str, Any], metric: Metric) -> str:
    if row["win_rate"] is None:
        return ""
    won = f"{row['win_rate'] * row['n']:g}"
    better = "better" if metric.better else "higher"
    pairs = "prompts" if metric.over == "prompt" else "pairs"
    return f", {won} of {row['n']} {pairs} {better}"


def _p(p: float | None) -> str:
    if p is None:
        return ""
    return " (p < 0.001)" if p < 0.001 else f" (p = {p:.3f})"


def _interval(low: float | None, high: float | None, shift: float = 0) -> str:
    if low is None or high is None:
        return " (no interval: one seed)" if shift else ""
    return f" [{number(low + shift, signed=False)}, {number(high + shift, signed=False)}]"


def number(value: float, signed: bool = True) -> str:
    """A value with about three significant digits and a real minus sign."""
    size = abs(value)
    decimals = 0 if size >= 100 else 1 if size >= 10 else 3 if size >= 0.01 or size == 0 else 4
    text = f"{size:.{decimals}f}" if size == 0 or size >= 0.0001 else f"{size:.1e}"
    sign = "−" if value < 0 else "+" if signed else ""
    return sign + text


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"

"""The effects of variants: in numbers, in words and drawn; one row and one sentence a metric and variant."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from lab.analysis.figures import INK, as_svg, drawing
from lab.comparing.experiment import Experiment
from lab.comparing.scores import Scores
from lab.comparing.statistics import CONFIDENCE, FEWEST, holm, measure
from lab.score.metrics import METRICS, Metric

EFFECT_COLUMNS = ("variant", "metric", "difference", "low", "high", "p", "win_rate", "n")
"""Of effects.csv."""

FEW = 4
"""Prompts below which an interval is several times as wide as with many, whatever the number of seeds."""


@dataclass(frozen=True)
class VariantEffect:
    """What a variant changes in a metric; a row of effects.csv.

    Attributes:
        difference: Mean paired difference from the baseline, or from the variant that it is held against.
        low, high: Its 95 % interval, or None where the data cannot give one.
        p: Of no difference, corrected for all effects of the comparison (Holm); None where no hypothesis is tested.
        win_rate: Share of pairs that are better, or higher where neither direction is better, ties counted half;
            None where nothing wins.
        n: Pairs of images; of a metric with one value a prompt, prompts.
        unchanged: Whether no pair differs at all.
        among: Hypotheses that the comparison tests.
        against: The variant that it is held against, if that is not the baseline.
    """

    variant: str
    metric: str
    difference: float
    low: float | None
    high: float | None
    p: float | None
    win_rate: float | None
    n: int
    unchanged: bool = False
    among: int = 1
    against: str | None = None

    @property
    def label(self) -> str:
        """The variant, with the one that it is held against."""
        return self.variant if self.against is None else f"{self.variant} against {self.against}"

    def row(self) -> dict[str, Any]:
        """The row of effects.csv, by column."""
        return {column: getattr(self, column) for column in EFFECT_COLUMNS} | {"variant": self.label}

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval, and zero is not in it."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def clear(self) -> bool:
        """Whether it is sure among all effects of the comparison that there is one."""
        return self.excludes_zero and (self.p is None or self.p <= 1 - CONFIDENCE)


def find_effects(experiment: Experiment, scores: Scores) -> list[VariantEffect]:
    """The effect of every variant but the baseline on every metric, and of the contrasts that were asked for.

    Metrics that compare with the baseline's image differ from the baseline's own, fixed value by as much as the
    images do, which is no hypothesis: they have neither p nor a win rate, and take no part in contrasts. A metric with
    one value for all images of a variant has a difference alone.
    """
    effects: list[VariantEffect] = []
    base = experiment.baseline
    others = [(variant, base) for variant in experiment.variants if variant is not base]
    for variant, other in [*others, *experiment.contrasts]:
        for name in scores.values:
            metric = METRICS[name]
            differences = scores.differences(name, variant.index, other.index)
            if np.isnan(differences).any() or (metric.paired and other is not base):
                continue
            effect = measure(differences)
            wins = 1 - effect.win_rate if metric.better < 0 else effect.win_rate
            single = metric.over == "variant"
            effects.append(
                VariantEffect(
                    variant.name,
                    name,
                    effect.difference,
                    effect.low,
                    effect.high,
                    p=None if metric.paired else effect.p,
                    win_rate=None if metric.paired or single else wins,
                    n=experiment.pairs if single else effect.n,
                    unchanged=effect.equal == effect.n,
                    against=None if other is base else other.name,
                )
            )
    corrected = holm([effect.p for effect in effects])
    among = sum(p is not None for p in corrected)
    return [replace(effect, p=p, among=among) for effect, p in zip(effects, corrected, strict=True)]


@dataclass(frozen=True)
class EffectSentence:
    """One effect in a sentence.

    Attributes:
        metric, variant: Whose effect it is.
        text: The sentence; names of variants stand between backticks.
        clear: Whether the effect is sure (never of similarities to the baseline, which every change lowers).
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


def effect_sentences(effects: Sequence[VariantEffect]) -> list[EffectSentence]:
    """A sentence for each effect, in their order."""
    return [
        EffectSentence(
            effect.metric,
            effect.label,
            f"`{effect.variant}`{f', against `{effect.against}`,' if effect.against else ''}{_said(effect)}.",
            effect.clear and not METRICS[effect.metric].paired,
        )
        for effect in effects
    ]


def caveats(experiment: Experiment) -> list[str]:
    """What the experiment cannot say."""
    if experiment.pairs < 2:
        return ["There is one pair of images, which tells nothing of others: give more prompts and seeds."]
    if experiment.pairs < FEWEST:
        return [
            f"There are {experiment.pairs} pairs of images, too few for an interval: give prompts and seeds for "
            f"{FEWEST} or more."
        ]
    if len(experiment.prompts) < 2:
        return ["There is one prompt: the intervals speak of it alone, not of prompts like it."]
    if len(experiment.prompts) < FEW:
        return [
            f"There are {len(experiment.prompts)} prompts: the intervals hold what they say, but are wide; more "
            "prompts narrow them, more seeds hardly do."
        ]
    return []


def _said(effect: VariantEffect) -> str:
    """What is said of a variant, behind its name."""
    metric = METRICS[effect.metric]
    thing = "prompt" if metric.over == "prompt" else "pair"
    if effect.unchanged and metric.paired:
        return f": {metric.label} is 1 throughout; nothing differs"
    if effect.unchanged:
        return f" does not change {metric.label} at all: nothing differs in {_every(effect.n, thing)}"
    if metric.paired:
        value = number(1 + effect.difference, signed=False)
        if effect.n == 1:
            return f": {metric.label} is {value} in the only {thing}; 1 would be the same image"
        interval = _interval(effect.low, effect.high, shift=1) or _no_interval(effect, metric)
        return f": {metric.label} is {value}{interval} on average; 1 would be the same image"
    if effect.n == 1:
        change = number(effect.difference)
        return (
            f": {metric.label} differs by {change} in the only {thing}; one {thing} tells nothing of others"
        )
    return f" {_change(effect, metric)}{_wins(effect, metric)}{_p(effect)}"


def _change(effect: VariantEffect, metric: Metric) -> str:
    size = number(abs(effect.difference), signed=False)
    verb = "raises" if effect.difference > 0 else "lowers"
    if effect.low is None or effect.high is None:
        return f"{verb} {metric.label} by {size} here{_no_interval(effect, metric)}"
    if effect.excludes_zero:
        low, high = sorted((abs(effect.low), abs(effect.high)))
        verb = verb if effect.clear else f"may {verb.removesuffix('s')}"
        return f"{verb} {metric.label} by {size}{_interval(low, high)}"
    interval = _interval(effect.low, effect.high)
    return f"does not clearly change {metric.label}: {number(effect.difference)}{interval}"


def _every(count: int, thing: str) -> str:
    return f"the only {thing}" if count == 1 else f"any of the {count} {thing}s"


def _wins(effect: VariantEffect, metric: Metric) -> str:
    if effect.win_rate is None:
        return ""
    won = f"{effect.win_rate * effect.n:g}"
    better = "better" if metric.better else "higher"
    things = "prompts" if metric.over == "prompt" else "pairs"
    return f", {won} of {effect.n} {things} {better}"


def _p(effect: VariantEffect) -> str:
    if effect.p is None:
        return ""
    told = "p < 0.001" if effect.p < 0.001 else f"p = {effect.p:.3f}"
    if effect.excludes_zero and not effect.clear:
        return f"; alone this would be clear, as one of {effect.among} effects it is not ({told})"
    return f" ({told})"


def _no_interval(effect: VariantEffect, metric: Metric) -> str:
    thing = "prompt" if metric.over == "prompt" else "pair"
    why = f"{_count(effect.n, thing)} {'is' if effect.n == 1 else 'are'} too few"
    if metric.over == "variant":
        why = "one value for all images"
    elif effect.n >= FEWEST:
        why = "the same everywhere"
    return f" (no interval: {why})"


def _interval(low: float | None, high: float | None, shift: float = 0) -> str:
    if low is None or high is None:
        return ""
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


MOST_DRAWN = 40
"""Variants in a plot: of more, those with the largest differences."""

CLEAR, UNCLEAR = "#2f7fd6", "#8a8f98"
"""Colours that can be seen on white and on black."""


def effect_plot(metric: str, effects: Sequence[VariantEffect]) -> str:
    """An SVG element with a line for each variant: its difference from the baseline, filled if the interval leaves out
    zero, and the interval.

    Args:
        metric: Whose effects they are; it names the unit.
        effects: One a variant; of more than 40, those with the largest differences are drawn.
    """
    shown = list(effects)
    if len(shown) > MOST_DRAWN:
        strongest = sorted(shown, key=lambda effect: -abs(effect.difference))[:MOST_DRAWN]
        shown = [effect for effect in shown if effect in strongest]
    with drawing(6.6, 0.9 + 0.26 * len(shown)) as figure:
        axes = figure.add_subplot()
        axes.axvline(0, color=INK, linewidth=0.8, alpha=0.6)
        for place, effect in enumerate(shown):
            colour = CLEAR if effect.excludes_zero else UNCLEAR
            if effect.low is not None and effect.high is not None:
                axes.plot([effect.low, effect.high], [place, place], color=colour, linewidth=2.2)
            filled = colour if effect.excludes_zero else "none"
            axes.plot(effect.difference, place, "o", color=colour, markerfacecolor=filled, markersize=6)
        axes.set_yticks(range(len(shown)), [_shortened(effect.label) for effect in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlabel(f"difference ({METRICS[metric].unit})")
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    return as_svg(figure)


def _shortened(text: str, most: int = 44) -> str:
    """Leaves out the middle: names of variants differ at their ends."""
    half = most // 2
    return text if len(text) <= most else f"{text[: half - 1]}…{text[-half:]}"

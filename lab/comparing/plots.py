"""Effect plots: every variant's difference from the baseline with its interval."""

from collections.abc import Sequence
from typing import Any

from matplotlib.ticker import MaxNLocator

from lab.comparing.figures import INK, as_svg, drawing
from lab.comparing.sentences import is_clear
from lab.score.metrics import METRICS

MOST = 40
"""Variants in a plot: of more, those with the largest differences."""

CLEAR, UNCLEAR = "#2f7fd6", "#8a8f98"
"""Colours that can be seen on white and on black."""


def effect_plot(metric: str, rows: Sequence[dict[str, Any]]) -> str:
    """An SVG element: one line a variant, its point filled if the interval leaves out zero."""
    shown = list(rows)
    if len(shown) > MOST:
        strongest = sorted(shown, key=lambda row: -abs(row["difference"]))[:MOST]
        shown = [row for row in shown if row in strongest]
    with drawing(6.6, 0.9 + 0.26 * len(shown)) as figure:
        axes = figure.add_subplot()
        axes.axvline(0, color=INK, linewidth=0.8, alpha=0.6)
        for place, row in enumerate(shown):
            colour = CLEAR if is_clear(row) else UNCLEAR
            if row["low"] is not None:
                axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2.2)
            filled = colour if is_clear(row) else "none"
            axes.plot(row["difference"], place, "o", color=colour, markerfacecolor=filled, markersize=6)
        axes.set_yticks(range(len(shown)), [_shortened(row["variant"]) for row in shown])
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

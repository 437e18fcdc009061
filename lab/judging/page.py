"""The card of a judged embedding as one page that opens from disk, with everything in it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from lab.analysis.figures import INK, as_svg, drawing
from lab.comparing.effects import CLEAR, UNCLEAR, VariantEffect, effect_plot, number
from lab.comparing.report import image_uri
from lab.judging.card import Card
from lab.runs.pages import write_page
from lab.score.metrics import METRICS


def write_card_page(path: Path, card: Card, folders: Sequence[Path]) -> None:
    """Writes NAME.card.html.

    Args:
        card: As `make_card` made it.
        folders: Of the runs on its models, whose images the page shows.

    Raises:
        InputError: the folder cannot be written.
    """
    first = card["models"][0]
    write_page(
        path,
        "card.html",
        "lab.judging",
        title=f"{card['name']}: {first['verdict']['answer']}",
        card=card,
        metrics=METRICS,
        number=number,
        models=[
            {
                "found": found,
                "plots": [(METRICS[name], Markup(_effects(found, name))) for name in _names(found)],
                "looks": Markup(_looks(found)) if len(found["looks"]) > 1 else None,
                "strengths": Markup(_strengths(found)) if found["strengths"] else None,
            }
            for found in card["models"]
        ],
        pairs=[
            pair
            | {
                side: image_uri((folders[0] / "cells" / pair[side]).read_bytes())
                for side in ("without", "with")
            }
            for pair in first["pairs"]
        ],
    )


def _names(found: Card) -> list[str]:
    return list(dict.fromkeys(row["metric"] for row in found["effects"]))


def _effects(found: Card, metric: str) -> str:
    """The effects on a metric against each rival, as an SVG element."""
    columns = ("difference", "low", "high", "win_rate", "n")
    rows = [
        VariantEffect(f"against {row['against']}", metric, p=None, **{key: row[key] for key in columns})
        for row in found["effects"]
        if row["metric"] == metric
    ]
    return effect_plot(metric, rows)


def _looks(found: Card) -> str:
    """How the interval narrowed, look by look, as an SVG element."""
    looks, verdict = found["looks"], found["verdict"]
    known = [look for look in looks if look["low"] is not None]
    with drawing(6.6, 2.2) as figure:
        axes = figure.add_subplot()
        axes.axhspan(-verdict["smallest"], verdict["smallest"], color=UNCLEAR, alpha=0.18, linewidth=0)
        axes.axhline(0, color=INK, linewidth=0.8, alpha=0.6)
        at = [look["prompts"] for look in known]
        axes.vlines(
            at, [one["low"] for one in known], [one["high"] for one in known], color=CLEAR, linewidth=2.2
        )
        axes.plot(
            [look["prompts"] for look in looks], [look["difference"] for look in looks], "o", color=CLEAR
        )
        axes.set_xlabel("prompts")
        axes.set_ylabel(f"difference\n({METRICS[verdict['metric']].unit})")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    return as_svg(figure)


def _strengths(found: Card) -> str:
    """The effect of every weight on every metric, as an SVG element."""
    names = _names(found)
    with drawing(6.6, 1.7 * len(names)) as figure:
        for axes, name in zip(
            figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0], names, strict=True
        ):
            rows: list[dict[str, Any]] = [row for row in found["strengths"]["rows"] if row["metric"] == name]
            known = [row for row in rows if row["low"] is not None]
            axes.axhline(0, color=INK, linewidth=0.8, alpha=0.6)
            at = [row["weight"] for row in known]
            low, high = ([row[end] for row in known] for end in ("low", "high"))
            axes.fill_between(at, low, high, color=CLEAR, alpha=0.2, linewidth=0)
            axes.plot([row["weight"] for row in rows], [row["difference"] for row in rows], "o-", color=CLEAR)
            axes.set_ylabel(f"{name}\n({METRICS[name].unit})", fontsize=8)
        axes.set_xlabel("weight")
    return as_svg(figure)

"""The tables of `eval_negatives`: means, and paired differences from the empty negative prompt with intervals."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from lab.comparing.statistics import CONFIDENCE, measure
from lab.score.formulas import cmmd

Array = NDArray[np.float64]

RESAMPLES = 500
"""Of prompts, for the interval of CMMD, which is one value for all images."""


class Found(NamedTuple):
    """The values of one comparison: (conditions, prompts, seeds) by measure, and CLIP features (..., p)."""

    values: dict[str, Array]
    features: Array


def report(
    names: Sequence[str], found: Found, seen: NDArray[np.bool_] | None, references: Array
) -> list[str]:
    """The table as text and as Markdown lines."""
    values = found.values
    columns = {"degraded": values["degraded"]}
    if seen is not None:
        columns["degraded, seen"] = values["degraded"][:, seen]
        columns["degraded, unseen"] = values["degraded"][:, ~seen]
    columns |= {"prompt (CLIP)": values["clip_text"], "style right": values["style"]}
    columns["diversity"] = diversity_of(found.features)
    columns |= {name: values[name] for name in ("pickscore", "aesthetic") if name in values}
    rows = [
        [
            name,
            *(pairs(table, place) for table in columns.values()),
            cmmd_cell(found.features, references, place),
        ]
        for place, name in enumerate(names)
    ]
    return show(["negative prompt", *columns, "CMMD"], rows)


def pairs(table: Array, place: int) -> str:
    """A condition's mean, and the difference from the first condition with its interval."""
    mean = f"{table[place].mean():.3f}"
    return mean if place == 0 else f"{mean} {effect(table[place] - table[0])}"


def effect(differences: Array) -> str:
    found = measure(differences)
    low, high = (f"{value:+.3f}" if value is not None else "?" for value in (found.low, found.high))
    return f"({found.difference:+.3f}, {low} to {high})"


def diversity_of(features: Array) -> Array:
    """(..., 1) mean cosine distances between the images of a prompt, of features (..., seeds, p)."""
    count = features.shape[-2]
    total = np.square(features.sum(axis=-2)).sum(axis=-1, keepdims=True) - count
    return 1 - total / (count * (count - 1)) if count > 1 else np.full(total.shape, np.nan)


def cmmd_cell(features: Array, references: Array, place: int) -> str:
    """CMMD, and its difference from the first condition's with an interval over prompts drawn again."""

    def distance(of: int, prompts: NDArray[np.int64]) -> float:
        rows = features[of, prompts].reshape(-1, features.shape[-1])
        return float(cmmd(torch.from_numpy(rows), torch.from_numpy(references)))

    everything, generator = np.arange(features.shape[1]), np.random.default_rng(0)
    value = distance(place, everything)
    if place == 0:
        return f"{value:.1f}"
    drawn = [generator.integers(0, len(everything), len(everything)) for _ in range(RESAMPLES)]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile([distance(place, some) - distance(0, some) for some in drawn], [tail, 1 - tail])
    return f"{value:.1f} ({value - distance(0, everything):+.1f}, {low:+.1f} to {high:+.1f})"


def verdict(
    found: Found, names: Sequence[str], name: str, alarms: float, thresholds: Mapping[float, float]
) -> list[str]:
    """The aims of a negative embedding; and what it leaves where the judge calls another share of clean images bad.

    Args:
        alarms: The share of clean images that the judge calls degraded.
        thresholds: The judge's probability above which another share of them lies, by that share.
    """
    place, words = names.index(name), names.index("words")
    degraded, likeness, judged = (found.values[what] for what in ("degraded", "clip_text", "judged"))
    share, beyond = (share_left(degraded[place], degraded[0], least) for least in (0, alarms))
    kept = {
        what: measure(table[place] - table[0]).low
        for what, table in (("prompt", likeness), ("diversity", diversity_of(found.features)))
    }
    lows = ", ".join(f"{what} {low:+.3f}" for what, low in kept.items() if low is not None)
    elsewhere = ", ".join(
        f"{share_left(judged[place] > limit, judged[0] > limit, 0):.2f} ({rate:.1%})"
        for rate, limit in thresholds.items()
    )
    lines = [
        "",
        f"- {name}: {share:.2f} of empty's degraded share, {beyond:.2f} beyond false alarms (aim 0.33); against words "
        f"{effect(degraded[place] - degraded[words])} (aim below 0); lower ends (aim -0.02): {lows}",
        f"  Of empty's share where the judge calls another share of clean images degraded: {elsewhere}",
    ]
    print(*lines[1:], sep="\n")
    return lines


def share_left(degraded: NDArray[Any], empty: NDArray[Any], alarms: float) -> float:
    """What is left of the degraded share with an empty negative prompt.

    A judge that also calls a share f of clean images degraded finds f + (1 - f - misses) p where p are degraded; so
    the ratio of two p is that of what lies beyond f (Rogan & Gladen 1978).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.divide(degraded.mean() - alarms, empty.mean() - alarms))


def show(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Prints a table and returns it in Markdown."""
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    Console(width=max(200, 40 * len(header))).print(table)
    return ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]

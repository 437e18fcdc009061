"""Geometry as pictures: matrices, norms with their nearest tokens, and a map of two principal components."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from lab.comparing.figures import INK, drawing, save_figure
from lab.comparing.geometry import Geometry
from lab.files import atomic

MOST_LABELS = 30
"""Vectors that are labelled one by one; of more, labels would overlap."""

MOST_NUMBERS = 10
"""Vectors whose matrix has its numbers written in."""

BARS = "#2f7fd6"


def draw_geometries(geometries: Sequence[Geometry]) -> Figure:
    """One row of four plots for each space: cosines, dot products, norms and the map."""
    with drawing(17.0, 4.6 * len(geometries)) as figure:
        rows = figure.subfigures(len(geometries), 1, squeeze=False)[:, 0]
        for row, geometry in zip(rows, geometries, strict=True):
            row.suptitle(geometry.space)
            cosine, dot, norms, points = row.subplots(1, 4)
            _matrix(cosine, "cosine", geometry.cosine, geometry.labels, 1.0)
            _matrix(dot, "dot product", geometry.dot, geometry.labels, float(geometry.dot.abs().max()))
            _norms(norms, geometry)
            _points(points, geometry)
    return figure


def write_geometries(path: Path, geometries: Sequence[Geometry]) -> None:
    """Writes the plots to a .png or .svg file and the numbers to a .json file of the same name.

    Raises:
        InputError: another suffix, or a file that cannot be written.
    """
    save_figure(draw_geometries(geometries), path)
    with atomic(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps([geometry.data() for geometry in geometries]), encoding="utf-8")


def _matrix(axes: Any, title: str, values: Tensor, labels: Sequence[str], top: float) -> None:
    image = axes.imshow(values.numpy(), cmap="RdBu_r", vmin=-top, vmax=top)
    axes.figure.colorbar(image, ax=axes, shrink=0.7)
    axes.set_title(title)
    shown = range(len(labels)) if len(labels) <= MOST_LABELS else []
    axes.set_xticks(shown, [_short(labels[place]) for place in shown], rotation=90)
    axes.set_yticks(shown, [_short(labels[place]) for place in shown])
    if len(labels) <= MOST_NUMBERS:
        for row, line in enumerate(values.tolist()):
            for column, value in enumerate(line):
                ink = "white" if abs(value) > 0.6 * top else "black"
                axes.text(column, row, f"{value:.3g}", ha="center", va="center", color=ink, fontsize=7)


def _norms(axes: Any, geometry: Geometry) -> None:
    places = range(len(geometry.labels))
    axes.barh(places, geometry.norms.numpy(), color=BARS, alpha=0.5)
    axes.set_title("norm, and the nearest tokens" if geometry.nearest else "norm")
    axes.invert_yaxis()
    if len(geometry.labels) > MOST_LABELS:
        return
    axes.set_yticks(places, [_short(label) for label in geometry.labels])
    for place, near in enumerate(geometry.nearest):
        text = " ".join(f"{token.removesuffix('</w>')} {cosine:.2f}" for token, cosine in near[:3])
        axes.text(0, place, f" {text}", va="center", fontsize=7, color=INK)


def _points(axes: Any, geometry: Geometry) -> None:
    points, shares = geometry.principal
    for group in dict.fromkeys(geometry.groups):
        members = [place for place, other in enumerate(geometry.groups) if other == group]
        axes.scatter(*points[members].T.numpy(), label=_short(group), s=18)
    if len(geometry.labels) <= MOST_LABELS:
        for label, (x, y) in zip(geometry.labels, points.tolist(), strict=True):
            axes.annotate(_short(label), (x, y), xytext=(3, 3), textcoords="offset points", fontsize=7)
    if len(set(geometry.groups)) > 1:
        axes.legend()
    axes.set(
        title="map", xlabel=f"first component ({shares[0]:.0%})", ylabel=f"second component ({shares[1]:.0%})"
    )


def _short(text: str, most: int = 18) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"

"""The curves of a run as one picture: loss, the objective on fixed examples, and similarity."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.files import atomic


def draw_curves(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Draws the progress lines of a run; a moving mean runs through the losses of single steps.

    Raises:
        InputError: the folder cannot be written.
    """
    from matplotlib.figure import Figure  # slow to import, and not needed before the first picture

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    steps, losses = [line["step"] for line in lines], [line["loss"] for line in lines]
    top.plot(steps, losses, color="0.8", linewidth=0.8, label="each step")
    top.plot(steps, _smoothed(losses), color="0.4", label="each step, smoothed")
    _plot(top, lines, "fixed_loss", "fixed examples", "tab:blue")
    top.set_ylabel("loss")
    top.legend(loc="upper right", frameon=False)
    _plot(bottom, lines, "similarity", "previews to training images", "tab:green")
    bottom.set_ylabel("CLIP cosine")
    bottom.set_xlabel("step")
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _plot(axes: Any, lines: Sequence[Mapping[str, Any]], key: str, label: str, colour: str) -> None:
    points = [(line["step"], line[key]) for line in lines if key in line]
    if points:
        axes.plot(*zip(*points, strict=True), marker=".", color=colour, label=label)


def _smoothed(values: Sequence[float], keep: float = 0.95) -> list[float]:
    """Exponential moving mean without the bias of its start."""
    result, mean, weight = [], 0.0, 0.0
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        result.append(mean / weight)
    return result

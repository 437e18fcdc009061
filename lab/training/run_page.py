"""The page of a run: previews over time, curves, and how it stands. It reloads itself until the run has ended."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.files import atomic
from lab.runs.pages import template
from lab.training.run_folder import TrainingFolder


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


IMAGES_SHOWN = 8


def write_page(
    folder: TrainingFolder, title: str, status: str, ended: bool, settings: str, images: Sequence[Path]
) -> None:
    """Writes index.html from what lies in the folder.

    Args:
        status: How the run stands or why it stopped, in a sentence.
        ended: Whether nothing will be added: until then the page reloads itself.
        settings: The config as YAML.
        images: Those that are learned from; some are shown for comparison, from where they are.

    Raises:
        InputError: the folder cannot be written.
    """
    steps: dict[int, list[tuple[str, str]]] = {}
    for path in sorted(folder.previews.glob("*.png")):
        match = re.fullmatch(r"(\d{6,})-(.+)", path.stem)
        if match:  # else it is somebody else's
            figure = f"{folder.previews.name}/{path.name}", match[2].replace("-", ", ")
            steps.setdefault(int(match[1]), []).append(figure)
    rows = [(f"step {step}", figures) for step, figures in sorted(steps.items())]
    learned_from = [(_relative(path, folder.path), path.name) for path in images[:IMAGES_SHOWN]]
    html = template("lab.training", "training.html").render(
        title=title,
        status=status,
        ending=ended,
        curves="curves.png" if (folder.path / "curves.png").is_file() else None,
        rows=[*rows, ("learned from", learned_from)] if learned_from else rows,
        settings=settings,
    )
    with atomic(folder.path / "index.html") as temporary:
        temporary.write_text(html, encoding="utf-8")


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()

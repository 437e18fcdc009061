"""The page of a run: previews over time, curves, and how it stands. It reloads itself until the run has ended."""

import os
from collections.abc import Sequence
from pathlib import Path

from lab.files import atomic
from lab.runs.pages import template

IMAGES_SHOWN = 8


def write_page(
    folder: Path, title: str, status: str, ending: bool, settings: str, images: Sequence[Path]
) -> None:
    """Writes index.html from what lies in the folder.

    Args:
        status: How the run stands or why it stopped, in a sentence.
        images: Those that are learned from; some are shown for comparison, from where they are.

    Raises:
        InputError: the folder cannot be written.
    """
    steps: dict[int, list[tuple[str, str]]] = {}
    for path in sorted((folder / "previews").glob("*.png")):
        step, _, caption = path.stem.partition("-")
        steps.setdefault(int(step), []).append((f"previews/{path.name}", caption.replace("-", ", ")))
    rows = [(f"step {step}", figures) for step, figures in sorted(steps.items())]
    shown = [(_relative(path, folder), path.name) for path in images[:IMAGES_SHOWN]]
    html = template("lab.training", "training.html").render(
        title=title,
        status=status,
        ending=ending,
        curves="curves.png" if (folder / "curves.png").is_file() else None,
        rows=[*rows, ("learned from", shown)] if shown else rows,
        settings=settings,
    )
    with atomic(folder / "index.html") as temporary:
        temporary.write_text(html, encoding="utf-8")


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()

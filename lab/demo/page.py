"""The page of the demo: sections of pictures in rows, each with the command that makes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.runs.pages import write_page


@dataclass(frozen=True)
class Figure:
    """One picture.

    Attributes:
        image: Its path relative to the page.
        caption: A few words under it.
        record: Everything that made it.
    """

    image: str
    caption: str
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Section:
    """Rows of pictures under a heading.

    Attributes:
        text: What to look for, in a sentence or two.
        command: The command line that makes these pictures.
        rows: (label, figures) each; all rows hold the same number of figures.
        link: Another page and what it is called.
    """

    title: str
    text: str
    command: str
    rows: Sequence[tuple[str, Sequence[Figure]]]
    link: tuple[str, str] | None = None


def write_demo_page(path: Path, title: str, intro: str, sections: Sequence[Section]) -> None:
    """Writes the page. Pictures stay beside it as files.

    Raises:
        InputError: the folder cannot be written.
    """
    figures = {figure.image: figure for section in sections for _, row in section.rows for figure in row}
    write_page(
        path,
        "demo.html",
        "lab.demo",
        title=title,
        intro=intro,
        sections=sections,
        places={image: place for place, image in enumerate(figures)},
        viewed={
            "shared": {},
            "images": [{"file": image, "own": dict(figure.record)} for image, figure in figures.items()],
        },
    )

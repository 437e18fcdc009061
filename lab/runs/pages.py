"""Pages that open from disk, from templates that a package brings along."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template

from lab.files import atomic


def template(package: str, name: str) -> Template:
    """The template of that name in a package's `templates` folder; it may extend those of `lab.runs`."""
    loader = ChoiceLoader([PackageLoader(package), PackageLoader("lab.runs")])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template(name)


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


def write_gallery(path: Path, title: str, intro: str, sections: Sequence[Section]) -> None:
    """Writes the page. Pictures stay beside it as files.

    Raises:
        InputError: the folder cannot be written.
    """
    html = template("lab.runs", "gallery.html").render(title=title, intro=intro, sections=sections)
    with atomic(path) as temporary:
        temporary.write_text(html, encoding="utf-8")

"""Pages that open from disk, from templates that a package brings along."""

from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template

from lab.files import atomic


def template(package: str, name: str) -> Template:
    """The template of that name in a package's `templates` folder; it may extend `base.html` of `lab.runs`."""
    loader = ChoiceLoader([PackageLoader(package), PackageLoader("lab.runs")])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {}  # else records would lose their order
    return environment.get_template(name)


def write_page(path: Path, name: str, package: str = "lab.runs", **values: Any) -> None:
    """Renders a template of a package into a file. Pictures stay beside it as files.

    Raises:
        InputError: the folder cannot be written.
    """
    html = template(package, name).render(**values)
    with atomic(path) as temporary:
        temporary.write_text(html, encoding="utf-8")

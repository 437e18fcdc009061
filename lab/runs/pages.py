"""Pages that open from disk, from templates that a package brings along."""

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template


def template(package: str, name: str) -> Template:
    """The template of that name in a package's `templates` folder; it may extend those of `lab.runs`."""
    loader = ChoiceLoader([PackageLoader(package), PackageLoader("lab.runs")])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template(name)

"""Flags from config classes: each field is a flag, and a config file can lie under them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from lab.condition.config import TextOptions
from lab.config import Config, one_of
from lab.embeddings.layouts import WRITABLE
from lab.embeddings.library import check_embedding_source
from lab.models.config import ModelOptions
from lab.sample.config import PromptOptions, SamplingOptions
from lab.score.config import ScoreOptions

ModelFlags = Annotated[ModelOptions, Parameter(name="*", group="Model")]
TextFlags = Annotated[TextOptions, Parameter(name="*", group="Text")]
SamplingFlags = Annotated[SamplingOptions, Parameter(name="*", group="Sampling")]
PromptFlags = Annotated[PromptOptions, Parameter(name="*", group="What to make")]
ScoreFlags = Annotated[ScoreOptions, Parameter(name="*", group="How it is judged")]
ConfigFlag = Annotated[Path | None, Parameter(help="A YAML file with any of these options; flags go on top.")]


def check_embeddings(sources: Iterable[str]) -> None:
    """Refuses embeddings that are not there, before the engine is imported.

    Raises:
        InputError: no such file or folder.
    """
    for source in sources:
        check_embedding_source(source)


def given(*flags: Config) -> dict[str, Any]:
    """The options that were typed, over all groups of flags."""
    return {name: value for group in flags for name, value in group.given().items()}


def choice_from(table: Mapping[str, Any], what: str, text: str) -> Parameter:
    """A flag whose value is a key of a table, checked before the command runs.

    Args:
        what: What the keys are names of, for the error.
        text: The flag's help, behind which the keys are listed.
    """

    def check(_type: Any, name: str | None) -> None:
        if name is not None:
            one_of(table, what).check(name)

    return Parameter(validator=check, help=f"{text} [choices: {', '.join(table)}]")


LayoutFlag = Annotated[
    str | None,
    choice_from(
        WRITABLE, "layout", "The layout of the new file; by default diffusers, or sdxl for two encoders."
    ),
]

"""Flags from config classes: each field is a flag, and a config file can lie under them."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from lab.condition.config import TextOptions
from lab.config import Config
from lab.models.config import ModelOptions
from lab.sample.config import PromptOptions, SamplingOptions

ModelFlags = Annotated[ModelOptions, Parameter(name="*", group="Model")]
TextFlags = Annotated[TextOptions, Parameter(name="*", group="Text")]
SamplingFlags = Annotated[SamplingOptions, Parameter(name="*", group="Sampling")]
PromptFlags = Annotated[PromptOptions, Parameter(name="*", group="What to make")]
ConfigFlag = Annotated[Path | None, Parameter(help="A YAML file with any of these options; flags go on top.")]


def given(*flags: Config) -> dict[str, Any]:
    """The options that were typed, over all groups of flags."""
    return {name: value for group in flags for name, value in group.given().items()}

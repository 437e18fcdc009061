"""The options of a comparison, each defined once: YAML keys, flags and keyword arguments come from here."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from lab.condition.config import TextOptions
from lab.config import Config
from lab.models.config import ModelOptions
from lab.sample.config import Prompts, SamplingOptions, Seeds
from lab.score.config import ScoreOptions


class ExperimentOptions(Config):
    """What is compared: prompts x seeds x axes."""

    negative_prompt: str | None = None
    """What the images avoid."""

    seeds: Seeds = "1-4"
    """Seeds of the noise, such as 1-4,9; every variant meets each prompt with each seed."""

    embedding_side: Literal["auto", "positive", "negative"] = "auto"
    """Which prompt the embeddings of an axis join; `auto` goes by what their files say they are."""

    heat_map: list[str] = Field(default_factory=list)
    """A word or embedding whose attention the report maps; `negative:WORD` for the negative prompt. Repeatable."""

    heat_layers: list[str] = Field(default_factory=list)
    """U-Net layers whose attention the maps show, by a part of their names such as `up_blocks.1`; by default all.
    Repeatable."""

    guidance_curve: bool = False
    """Also measures at which steps the variants' guidance differs from the baseline's (a few more images' time)."""

    out: Path | None = None
    """Folder for the run; by default one under outputs/ that the settings name."""


class CompareConfig(ExperimentOptions, ScoreOptions, SamplingOptions, TextOptions, ModelOptions):
    """One comparison."""

    prompts: Prompts = Field(default_factory=list)
    """What the images show. `{embedding}` stands for the embeddings of an axis; without it they go to the end."""

    axes: dict[str, Any] = Field(default_factory=dict)
    """What varies: a list of values for each axis, or text such as `1-10 [5]` and `0.2-1.2 (+0.2)`."""

    baseline: dict[str, Any] = Field(default_factory=dict)
    """The axis values that the others are compared with; the first of each where nothing is said."""

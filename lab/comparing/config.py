"""The options of a comparison, each defined once, and their axes read and checked without the engine.

YAML keys, flags and keyword arguments come from here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from lab.comparing.axes import AXES, AxisValue, read_axis
from lab.comparing.embedding_axes import SLOT
from lab.condition.config import TextOptions
from lab.condition.prompt_parts import END
from lab.config import Config, NewPath
from lab.errors import InputError, did_you_mean
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

    contrast: list[str] = Field(default_factory=list)
    """Two variants to hold against each other as A,B, by their names or values: how A differs from B. Repeatable."""

    knock_out_by: Literal["padding", "text"] = "padding"
    """How `--knock-out prompt` takes parts away: clean padding once the prompt is encoded, or leaving words out of the
    text."""

    heat_map: list[str] = Field(default_factory=list)
    """A word or embedding whose attention the report maps; `negative:WORD` for the negative prompt. Repeatable."""

    heat_layers: list[str] = Field(default_factory=list)
    """U-Net layers whose attention the maps show, by a part of their names such as `up_blocks.1`; by default all.
    Repeatable."""

    guidance_curve: bool = False
    """Also measures at which steps the variants' guidance differs from the baseline's (a few more images' time)."""

    out: NewPath | None = None
    """Folder for the run; by default one under outputs/ that the settings name."""


class CompareConfig(ExperimentOptions, ScoreOptions, SamplingOptions, TextOptions, ModelOptions):
    """One comparison."""

    prompts: Prompts = Field(default_factory=list)
    """What the images show. `{embedding}` stands for the embeddings of an axis; without it they go to the end."""

    axes: dict[str, Any] = Field(default_factory=dict)
    """What varies: a list of values for each axis, of which null leaves an option out, or text such as `1-10 [5]` and
    `0.2-1.2 (+0.2)`."""

    baseline: dict[str, Any] = Field(default_factory=dict)
    """The axis values that the others are compared with; the first of each where nothing is said."""


EACH = "prompt"
"""What `knock_out` says where each part of the prompt is knocked out in turn."""


def stand_in(config: CompareConfig) -> CompareConfig:
    """Where each part of the prompt is to be knocked out, the config with one part that every prompt has; as it is
    elsewhere. Which parts there are is known when the prompts are encoded (`knock_outs.with_parts`)."""
    return with_knock_outs(config, [END]) if config.knock_out == EACH else config


def with_knock_outs(config: CompareConfig, parts: Sequence[str]) -> CompareConfig:
    """The config with an axis over parts of the prompts, nothing knocked out first."""
    by_text = config.knock_out_by == "text"
    axes = {**config.axes, "left_out" if by_text else "knock_out": [None, *parts]}
    return config.model_copy(update={"axes": axes, "knock_out": None})


Axes = Mapping[str, Sequence[AxisValue]]


def read_axes(config: CompareConfig) -> tuple[Axes, dict[str, str]]:
    """The values of every axis of a comparison, and the label of the baseline's value on each.

    Embedding files are read where an axis names them; everything else is told without the engine.

    Raises:
        InputError: axes that are unknown (with the nearest names), clash, lack another or vary nothing, values that
            cannot be read, no prompts or one given twice, or a baseline that is none of the values.
    """
    _check_axes(config)
    axes = {name: read_axis(name, given) for name, given in config.axes.items()}
    if all(len(values) == 1 for values in axes.values()):
        raise InputError("axes: each has one value, so there is nothing to compare; give a second one")
    if "prompt_replace" in axes:
        searched = axes["prompt_replace"][0].label
        if not any(searched in prompt for prompt in config.prompts):
            raise InputError(f"axes: prompt_replace: no prompt has '{searched}' in it")
    if "slot" in axes and not any(SLOT in text for text in [*config.prompts, config.negative_prompt or ""]):
        raise InputError(f"axes: slot: no prompt has {SLOT} in it, which its texts take the place of")
    return axes, {name: _baseline_label(config, name, values) for name, values in axes.items()}


def _check_axes(config: CompareConfig) -> None:
    if not config.axes:
        raise InputError("axes: there is none, so there is nothing to compare; give --axis NAME=VALUE,VALUE")
    for name in config.axes:
        if name not in AXES:
            raise InputError(f"axes: unknown axis '{name}'{did_you_mean(name, AXES)}")
    for name in config.baseline:
        if name not in config.axes:
            raise InputError(f"baseline: '{name}' is no axis here{did_you_mean(name, config.axes)}")
    given = {name for name, value in config.given().items() if value not in (None, [], {})}
    for name in config.axes:
        axis = AXES[name]
        fixed = next((option for option in axis.replaces if option in given), None)
        if fixed:
            raise InputError(f"axes: '{name}' varies what the option '{fixed}' fixes; leave one of them out")
        other = next((other for other in axis.excludes if other in config.axes), None)
        if other:
            raise InputError(f"axes: '{name}' and '{other}' cannot be combined; run one after the other")
        if axis.needs and not set(axis.needs) & config.axes.keys():
            raise InputError(f"axes: '{name}' says something of another axis; give {axis.needs[0]} as well")
    if not config.prompts and "prompt" not in config.axes:
        raise InputError("prompts: there is none; give --prompt")
    known: set[str] = set()
    for prompt in config.prompts:
        words = " ".join(prompt.split())  # spaces make no other image
        if words in known:
            raise InputError(f"prompts: '{words}' is given twice and would count as two in every interval")
        known.add(words)


def _baseline_label(config: CompareConfig, axis: str, values: Sequence[AxisValue]) -> str:
    labels = [value.label for value in values]
    if axis not in config.baseline:
        return labels[0]
    asked = config.baseline[axis]
    if asked not in labels:
        asked = ", ".join(value.label for value in read_axis(axis, [asked]))
    if asked not in labels:
        raise InputError(f"baseline: {axis} has no value '{asked}'; it has {', '.join(map(repr, labels))}")
    return asked

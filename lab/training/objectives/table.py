"""What vectors can be learned for, by the name of `--objective`, and the options that single objectives have."""

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from lab.config import Config, ExistingFile, ExistingFolder
from lab.score.config import JudgeOptions

MAX_VECTORS = 64
"""The most vectors an embedding may have; what is left of the text encoder's context is for words."""


def _check_init(value: str) -> str:
    if value not in ("auto", "random") and not re.match(r"(text|file):.", value):
        raise ValueError(f"'{value}' is not auto, random, text:WORDS or file:EMBEDDING; write text:{value}")
    return value


Init = Annotated[str, AfterValidator(_check_init)]
Lines = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
Rate = Annotated[float, Field(ge=0, le=1e37)]  # above it, AdamW's first step is no float32


class MakingOptions(Config):
    """How the images are sampled that a run makes for itself."""

    prompt_file: ExistingFile | None = None
    """A text file with one prompt a line, of which the run makes images: for a reward, and for --worst-of."""

    sampling_steps: int | None = Field(None, ge=1, le=1000)
    """Denoising steps of an image; by default the model's own."""

    guidance: float | None = Field(None, gt=1, le=100)
    """Guidance scale that the vectors are learned at; by default the model's own."""

    scheduler: str | None = None
    """Scheduler that the vectors are learned with; by default the model's own."""


class WorstOptions(Config):
    """Images that show what is to be avoided, made by the model itself."""

    worst_of: int | None = Field(None, ge=2, le=1_000_000)
    """Instead of a folder of images: makes this many and learns from the worst of them."""

    worst: int = Field(16, ge=1)
    """How many of them are learned from."""

    score: str = "reward"
    """By what they are the worst: a metric's name, or `reward` for the weighted sum of --reward."""


class RewardOptions(JudgeOptions):
    """What a reward asks for."""

    reward: Lines = Field(default_factory=lambda: ["degraded"])
    """Metrics that are made better, as NAME or NAME=WEIGHT: degraded, clip_text, pickscore, aesthetic. Repeatable."""

    keep_prompt: float = Field(5.0, ge=0)
    """Weight of what is lost in CLIP similarity to the prompt, against the same image without the vectors."""

    keep_image: float = Field(0.5, ge=0)
    """Weight of the CLIP distance to the same image without the vectors: keeps the style, and much else."""

    most_lost: float = Field(0.02, ge=0, le=2)
    """Stops when CLIP similarity to the prompt has fallen by more than this while the reward rose."""

    gradient_steps: int = Field(2, ge=1, le=1000)
    """The last denoising steps, through which the gradient goes back."""

    tiny_decoder: ExistingFolder | None = None
    """Folder of an AutoencoderTiny (TAESD) that decodes in the VAE's place, in a part of its time and memory."""


class PairOptions(Config):
    """The negative half of a pair."""

    negative_vectors: int = Field(3, ge=1, le=MAX_VECTORS)
    """How many vectors it has."""

    negative_init: Init = "auto"
    """Where they begin, as --init says it."""

    negative_rate: Rate | None = None
    """Their learning rate; by default that of the positive half."""

    negative_templates: Lines = Field(default_factory=lambda: ["{name}"])
    """Templates of the negative prompts, of which each example takes one."""


class ObjectiveOptions(MakingOptions, WorstOptions, RewardOptions, PairOptions):
    """Everything that only some objectives can be told."""


OBJECTIVES: dict[str, str | type] = {
    "concept": "lab.training.objectives.denoising:Concept",
    "style": "lab.training.objectives.denoising:Style",
    "negative": "lab.training.objectives.denoising:Negative",
    "pair": "lab.training.objectives.pair:Pair",
    "reward": "lab.training.objectives.reward_ascent:RewardAscent",
}
"""An entry is a subclass of `lab.training.objectives.objective.Objective`, or where to find one as "module:Class",
so that options and help know the names without importing torch."""

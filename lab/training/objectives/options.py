"""The options that single objectives have; `OBJECTIVES` says which. Imports no torch."""

from typing import Any

from pydantic import Field

from lab.config import Config, ExistingFile, ExistingFolder
from lab.sample.config import GenerateConfig, NegativeOptions
from lab.score.config import ToolOptions
from lab.training.option_types import MAX_VECTORS, Init, Lines, Rate


class MakingOptions(Config):
    """How a run samples images for itself."""

    prompt_file: ExistingFile | None = None
    """A text file with one prompt a line, of which the run makes images: for a reward, and for --worst-of."""

    sampling_steps: int | None = Field(None, ge=1, le=1000)
    """Denoising steps of an image; by default the model's own."""

    guidance: float | None = Field(None, ge=0, le=100)
    """Guidance scale that the vectors are learned at; by default the model's own."""

    scheduler: str | None = None
    """Scheduler that the vectors are learned with; by default the model's own."""

    def sampling(self, side: int | None, **others: Any) -> GenerateConfig:
        """How the run samples images of `side` pixels (None: the model's own size); with other options on top."""
        own = {"steps": self.sampling_steps, "guidance": self.guidance, "scheduler": self.scheduler}
        return GenerateConfig.build({**own, "width": side, "height": side, **others})


class WorstOptions(Config):
    """Negative embeddings: from the worst images.

    The images show what is to be avoided, and are made by the model itself.
    """

    worst_of: int | None = Field(None, ge=2, le=1_000_000)
    """Instead of a folder of images: makes this many and learns from the worst of them."""

    worst: int = Field(16, ge=1)
    """How many of them are learned from."""

    score: str = "reward"
    """By what they are the worst: a metric's name, or `reward` for the weighted sum of --reward."""


class RewardOptions(ToolOptions, NegativeOptions):
    """Negative embeddings: by a reward."""

    reward: Lines = Field(default_factory=lambda: ["degraded"])
    """Metrics that are made better, as NAME or NAME=WEIGHT: degraded, clip_text, pickscore, hpsv2, aesthetic.
    Repeatable."""

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
    """Negative embeddings: together with a concept.

    They are about the negative half of a pair.
    """

    negative_vectors: int = Field(3, ge=1, le=MAX_VECTORS)
    """How many vectors it has."""

    negative_init: Init = "auto"
    """Where they begin, as --init says it."""

    negative_rate: Rate | None = None
    """Their learning rate; by default that of the positive half."""

    negative_templates: Lines = Field(default_factory=lambda: ["{name}"])
    """Templates of the negative prompts, of which each example takes one."""


class TextMatchOptions(Config):
    """Embeddings: from words alone, by what they do in prompts."""

    text: str | None = None
    """The words that the vectors are to stand for, such as a long negative prompt; other embeddings may be named."""

    embeds: ExistingFile | None = None
    """Prompt embeddings in the text's place: of `lab encode --out`, or a bare tensor such as ReNeg's (2412.19637)."""

    tolerance: float = Field(0.02, ge=0, lt=1)
    """Of several numbers of vectors the fewest are kept whose share of the effect is at most this far below the
    best."""

    measured: int | None = Field(None, ge=0, le=10_000)
    """Images that tell at the end how much of the effect survives, in the negative prompt with --prompt-file, else as
    the prompt; by default 16 for --embeds, and none for --text. Of a slider: those at each weight, by default 4."""


class ContrastiveOptions(Config):
    """Embeddings: by CLIP alone, from what images show."""

    against: ExistingFolder | None = None
    """Images of other things, to be far from; by default the text is to be nearer to its images than other words."""

    in_batch: bool = False
    """To be far from the other images of a step too: each image is then told by captions of its own, from the others
    too, so that the vectors need not say what its captions do."""


class SliderOptions(Config):
    """Sliders: a direction between two prompts or folders of images, whose weight is its strength."""

    from_: str | None = None
    """The prompt that it leads away from, such as "an old X", where X stands for each of --things; or a folder of
    images, of which a style is learned first, as other options say, in a folder NAME-from beside what comes of it."""

    to: str | None = None
    """The prompt or folder that it leads to, such as "a new X"."""

    neutral: str | None = None
    """The prompt that it is learned beside, as others will be used; by default the words that both have, or X."""

    things: Lines = Field(
        default_factory=lambda: ["dog", "house", "tree", "bus", "flower", "fish", "hat", "cup"], min_length=1
    )
    """What an X in the prompts stands for, so that what is learned holds for other things; repeatable."""

"""What vectors can be learned for: the table of objectives, the options that single ones have, and their base class.

Imports no torch, so that options and help know the names at once.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from pydantic import Field

from lab.config import Config, ExistingFile, ExistingFolder
from lab.embeddings.embedding import Embedding, Kind
from lab.errors import InputError, did_you_mean
from lab.listening import Listener
from lab.sample.config import GenerateConfig, NegativeOptions
from lab.score.config import ToolOptions
from lab.training.option_types import MAX_VECTORS, Init, Lines, Rate

if TYPE_CHECKING:  # options and names are known without torch
    from torch import Tensor

    from lab.models.bundle import Bundle
    from lab.training.config import Subject, TrainConfig
    from lab.training.learned import Learned


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
    """Of several numbers of vectors the fewest are kept whose share of the text's effect is at most this far below the
    best."""

    measured: int | None = Field(None, ge=0, le=10_000)
    """Images that tell at the end how much of the effect survives, in the negative prompt with --prompt-file, else as
    the prompt; by default 16 for --embeds, and none for --text."""


class ContrastiveOptions(Config):
    """Embeddings: by CLIP alone, from what images show."""

    against: ExistingFolder | None = None
    """Images of other things, to be far from; by default the text is to be nearer to its images than other words."""


class ObjectiveEntry(NamedTuple):
    """An entry of the table: an objective that is imported when it is asked for.

    Attributes:
        place: A subclass of `Objective`, as "module:Class".
        options: Those that it has to itself: they become fields of `TrainConfig`, and flags of `lab train` under
            the first line of their docstring.
    """

    place: str
    options: type[Config] | None = None


OBJECTIVES: dict[str, "ObjectiveEntry | type[Objective[Any]]"] = {
    "concept": ObjectiveEntry("lab.training.objectives.denoising:Concept"),
    "style": ObjectiveEntry("lab.training.objectives.denoising:Style"),
    "negative": ObjectiveEntry("lab.training.objectives.denoising:Negative", WorstOptions),
    "reward": ObjectiveEntry("lab.training.objectives.reward_ascent:RewardAscent", RewardOptions),
    "pair": ObjectiveEntry("lab.training.objectives.denoising:Pair", PairOptions),
    "contrastive": ObjectiveEntry("lab.training.objectives.contrastive:Contrastive", ContrastiveOptions),
    "text": ObjectiveEntry("lab.training.objectives.text_match:TextMatch", TextMatchOptions),
}
"""By the name of `--objective`; a subclass of `Objective` itself may be added while the program runs."""


def objective_options() -> tuple[type[Config], ...]:
    """The options that only some objectives have: of images that a run makes, then each objective's own."""
    own = (entry.options for entry in OBJECTIVES.values())
    return (MakingOptions, *dict.fromkeys(options for options in own if options is not None))


E = TypeVar("E")


@dataclass(frozen=True)
class Cost:
    """What one example of an objective costs.

    Attributes:
        rows: Entries of the U-Net's batch, over all its calls.
        rows_back: Those of them that gradients go back through.
        rows_kept: Those of them whose activations are in memory at the same time.
        decoder_back: Gradients go back through the VAE's decoder too.
    """

    rows: int = 1
    rows_back: int = 1
    rows_kept: int = 1
    decoder_back: bool = False


class Objective(ABC, Generic[E]):
    """What vectors are learned for; `E` is whatever a subclass calls an example.

    A subclass reads and checks its data when it is made. `start` gives it the vectors, once, before the first step;
    `batch`, `fixed`, `losses` and `watch` are asked after that.
    """

    kind: ClassVar[Kind] = "concept"
    """What the saved file says that the embedding is."""

    word: str = "object"
    """The text that vectors begin at with `init: auto` where CLIP finds no words."""

    images_show_it: ClassVar[bool] = True
    """Whether the images show what the embedding is to mean, so that `init: auto` may look for words in them."""

    rate: ClassVar[float] = 0.3
    """The default learning rate in units of the vocabulary's root mean square value (about 0.014 in CLIP-L)."""

    options: ClassVar[type[Config] | None] = None
    """The options of an objective that is added while the program runs; of the others the table says them."""

    watched: ClassVar[Sequence[str]] = ()
    """What is measured on the fixed examples beside the loss."""

    images: Sequence[Path] = ()
    """The image files that are learned from; none if the objective makes its own as it goes."""

    skipped: Sequence[str] = ()
    """A line for people for each thing that was left out."""

    layers_stay: bool = True
    """Whether the U-Net's layers compute on the way back what they computed before, so that they may do so again
    instead of being kept in memory."""

    def __init__(self, bundle: "Bundle", config: "TrainConfig", embeddings: Mapping[str, Embedding]):
        """Reads and checks what is learned from; what takes long waits for `start`.

        Args:
            embeddings: Those that captions and prompts may name beside the ones that are learned; they stay as they
                are.

        Raises:
            InputError: data or settings that cannot serve.
        """
        self.bundle = bundle
        self.config = config
        self.embeddings = embeddings

    @classmethod
    def partner(cls, config: "TrainConfig") -> "Subject | None":
        """Another embedding that is learned along with the first, or None."""
        return None

    @classmethod
    def cost(cls, bundle: "Bundle", config: "TrainConfig") -> Cost:
        """What one example costs, for estimates of memory and time."""
        return Cost()

    @abstractmethod
    def fingerprint(self) -> dict[str, str]:
        """What a resumed run must find the same, by the name that an error would give it."""

    @abstractmethod
    def describe(self) -> Iterator[str]:
        """Yields lines for people on what is learned from."""

    def start(self, learned: "Learned", listener: Listener = Listener()) -> None:
        """Takes the vectors that are learned, and does once what takes long: encoding images, for example."""

    @abstractmethod
    def batch(self, step: int) -> Sequence[E]:
        """The examples of a step, counted from 0, over all processes: a function of the seed and the step."""

    @abstractmethod
    def fixed(self) -> Sequence[Sequence[E]]:
        """The examples on which progress is measured, in groups that are computed together."""

    @abstractmethod
    def losses(self, examples: Sequence[E]) -> "Tensor":
        """(len(examples),) float32 losses, differentiable with respect to the learned vectors."""

    def watch(self, examples: Sequence[E]) -> "Tensor":
        """(len(examples), 1 + len(watched)): the losses, then what is watched."""
        return self.losses(examples)[:, None]

    def objection(self, first: Mapping[str, float], now: Mapping[str, float]) -> str | None:
        """Why a run must not go on, from the means over the fixed examples before the first step and now."""
        return None

    def verdict(self, best: Mapping[str, float], kept: Sequence[Embedding]) -> str:
        """What a person should know of the vectors that are kept, which had these means on the fixed examples."""
        return ""


def find_objective(name: str) -> type[Objective[Any]]:
    """The objective of that name, imported if it was not yet.

    Raises:
        InputError: there is none, with the nearest names.
    """
    if name not in OBJECTIVES:
        raise InputError(f"objective: unknown '{name}'{did_you_mean(name, OBJECTIVES)}")
    entry = OBJECTIVES[name]
    if isinstance(entry, ObjectiveEntry):
        module, _, class_name = entry.place.partition(":")
        return getattr(import_module(module), class_name)
    return entry


def split_evenly(examples: Sequence[E], parts: int) -> list[Sequence[E]]:
    """Cuts a sequence into at most `parts` runs of nearly equal length."""
    length = max(math.ceil(len(examples) / parts), 1)
    return [examples[start : start + length] for start in range(0, len(examples), length)]

"""What vectors can be learned for: the table of objectives, and their base class.

Imports no torch, so that options and help know the names at once.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from lab.config import Config
from lab.embeddings.embedding import Embedding, Kind
from lab.errors import InputError, did_you_mean
from lab.listening import Listener
from lab.score.config import ToolOptions
from lab.training.objectives.options import (
    ContrastiveOptions,
    MakingOptions,
    PairOptions,
    RewardOptions,
    SliderOptions,
    TextMatchOptions,
    WorstOptions,
)

if TYPE_CHECKING:  # options and names are known without torch
    from torch import Tensor

    from lab.models.bundle import Bundle
    from lab.score.clip import Shown
    from lab.training.config import Subject, TrainConfig
    from lab.training.learned import Learned


class ObjectiveEntry(NamedTuple):
    """An entry of the table: an objective that is imported when it is asked for.

    Attributes:
        place: A subclass of `Objective`, as "module:Class".
        options: Those that it has to itself: they become fields of `TrainConfig`, and flags of `lab train` under
            the first line of their docstring.
        takes: The names of other options that it takes. Options that no entry names are for all objectives.
    """

    place: str
    options: type[Config] | None = None
    takes: tuple[str, ...] = ()

    @property
    def taken(self) -> frozenset[str]:
        """All options that are not for every objective and are for this one."""
        return frozenset((*self.takes, *(self.options.model_fields if self.options else ())))


READING_IMAGES = (
    *("captions", "shuffle_tags", "keep_tags", "tag_dropout", "buckets", "crop", "crops", "flip"),
    *("alpha", "background", "skip_broken", "latents"),
)
"""The options that say how a folder of images is read."""

DENOISING = (*READING_IMAGES, "loss", "weighting", "keep_context")
"""The options that say how images are read, and how the U-Net's error on them counts."""

_UNET = ("clip_skip", "evaluate_on", "gradient_checkpointing", "resolution")
_PICTURES = ("images", "place", "templates", "timesteps", *DENOISING, *_UNET)

OBJECTIVES: dict[str, "ObjectiveEntry | type[Objective[Any]]"] = {
    "concept": ObjectiveEntry(
        "lab.training.objectives.denoising:Concept", takes=("more", "keep_attention", *_PICTURES)
    ),
    "style": ObjectiveEntry("lab.training.objectives.denoising:Style", takes=("more", *_PICTURES)),
    "negative": ObjectiveEntry(
        "lab.training.objectives.denoising:Negative",
        WorstOptions,
        ("more", *_PICTURES, "prompt_file", "sampling_steps", "reward", *ToolOptions.model_fields),
    ),
    "reward": ObjectiveEntry(
        "lab.training.objectives.reward_ascent:RewardAscent",
        RewardOptions,
        ("more", "place", "prompt_file", "sampling_steps", *_UNET),
    ),
    "pair": ObjectiveEntry("lab.training.objectives.denoising:Pair", PairOptions, _PICTURES),
    "contrastive": ObjectiveEntry(
        "lab.training.objectives.contrastive:Contrastive",
        ContrastiveOptions,
        ("images", "captions", "templates", "evaluate_on"),
    ),
    "text": ObjectiveEntry(
        "lab.training.objectives.text_match:TextMatch",
        TextMatchOptions,
        ("more", "templates", "prompt_file", "sampling_steps", "clip_skip"),
    ),
    "slider": ObjectiveEntry(
        "lab.training.objectives.slider:Slider",
        SliderOptions,
        ("templates", "timesteps", "sampling_steps", "measured", "tolerance", *_UNET),
    ),
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

    def images_of(self, name: str) -> Sequence[Path]:
        """Of the images that are learned from, those that show what an embedding is to mean."""
        return self.images

    def shown(self, name: str) -> "Sequence[Shown]":
        """The images that show what an embedding is to mean, or what reads the part that does."""
        return self.images_of(name)

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

    def facts(self) -> Mapping[str, str]:
        """What a file shall say of the vectors besides, by the keys of its metadata; asked for after the verdict."""
        return {}


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

"""What an embedding can become: adding an objective is one entry here, and a `Task` if none of those there fits."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from lab.embeddings.embedding import Kind
from lab.errors import InputError, did_you_mean
from lab.models.bundle import Bundle
from lab.training.config import Subject, TrainConfig
from lab.training.data.examples import read_data
from lab.training.data.latents import Progress
from lab.training.data.prompts import read_prompt_data
from lab.training.estimate import Work
from lab.training.loop import Task
from lab.training.objectives.denoising import Denoising
from lab.training.objectives.pair import Pair, negative_half, read_pair_data
from lab.training.objectives.pair import work as pair_work
from lab.training.objectives.reward import Ascent, work
from lab.training.vectors import Learned


class Material(Protocol):
    """What a run learns from, read and checked before its first step."""

    @property
    def images(self) -> Sequence[Path]:
        """The images among it; none if the run makes its own as it goes."""

    @property
    def skipped(self) -> Sequence[str]:
        """A line for each thing that was left out."""

    def fingerprint(self) -> dict[str, str]:
        """What a resumed run must find the same, by name."""

    def describe(self) -> Iterator[str]:
        """Yields what there is, in lines for people."""

    def make_ready(self, on_progress: Progress | None = None) -> None:
        """Does once what takes its time, before the first step."""


@dataclass(frozen=True)
class Objective:
    """What an embedding is to become.

    Attributes:
        kind: What the saved file says it is.
        word: Where its vectors begin when `auto` finds no words by CLIP.
        read: Reads and checks what is learned from.
        task: Makes what the loop minimises, from what `read` made.
        shown: The images show what the embedding shall mean, so that `auto` may look for words there.
        rate: The default learning rate in units of the vocabulary's root mean square value (about 0.014 in CLIP-L).
        work: What an example costs.
        partner: Another embedding that a subject of this objective brings along.
    """

    kind: Kind
    word: str
    read: Callable[[Bundle, TrainConfig], Material]
    task: Callable[[Bundle, TrainConfig, Any, Learned], Task[Any]]
    shown: bool = True
    rate: float = 0.3
    work: Callable[[Bundle, TrainConfig], Work] = lambda bundle, config: Work()
    partner: Callable[[TrainConfig], list[Subject]] = lambda config: []


OBJECTIVES: Mapping[str, Objective] = {
    "concept": Objective("concept", "object", partial(read_data, templates="object"), Denoising),
    "style": Objective("style", "style", partial(read_data, templates="style"), Denoising),
    "negative": Objective(
        "negative", "low quality", partial(read_data, templates="negative"), Denoising, shown=False
    ),
    "pair": Objective("concept", "object", read_pair_data, Pair, work=pair_work, partner=negative_half),
    "reward": Objective(
        "negative", "low quality", read_prompt_data, Ascent, shown=False, rate=0.2, work=work
    ),
}


def find_objective(name: str) -> Objective:
    """The objective of that name.

    Raises:
        InputError: there is none, with the nearest names.
    """
    if name not in OBJECTIVES:
        raise InputError(f"objective: unknown '{name}'{did_you_mean(name, OBJECTIVES)}")
    return OBJECTIVES[name]


def all_subjects(config: TrainConfig) -> list[Subject]:
    """Every embedding that the run learns: those that captions name, then those that their objectives bring along.

    Raises:
        InputError: an unknown objective.
    """
    named = config.subjects()
    for subject in named:
        find_objective(subject.objective)
    return [*named, *find_objective(config.objective).partner(config)]

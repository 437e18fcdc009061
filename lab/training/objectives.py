"""What an embedding can become: adding an objective is one entry here, and a `Task` if none of those there fits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lab.embeddings.embedding import Kind
from lab.errors import InputError, did_you_mean
from lab.models.bundle import Bundle
from lab.training.config import TrainConfig
from lab.training.data import Data
from lab.training.denoising import Denoising
from lab.training.learned import Learned
from lab.training.loop import Task


@dataclass(frozen=True)
class Objective:
    """What an embedding is to become.

    Attributes:
        kind: What the saved file says it is.
        templates: The set of caption templates that goes with it.
        word: Where its vectors begin when `auto` finds no CLIP.
        task: Makes what the loop minimises.
    """

    kind: Kind
    templates: str
    word: str
    task: Callable[[Bundle, TrainConfig, Data, Learned], Task[Any]]


OBJECTIVES = {
    "concept": Objective("concept", templates="object", word="object", task=Denoising),
    "style": Objective("style", templates="style", word="style", task=Denoising),
}


def find_objective(name: str) -> Objective:
    """The objective of that name.

    Raises:
        InputError: there is none, with the nearest names.
    """
    if name not in OBJECTIVES:
        raise InputError(f"objective: unknown '{name}'{did_you_mean(name, OBJECTIVES)}")
    return OBJECTIVES[name]

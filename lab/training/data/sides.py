"""The prompts of a slider: what is at its two ends, and what it stands beside."""

import re
from difflib import SequenceMatcher
from typing import NamedTuple

from lab.errors import InputError
from lab.training.config import TrainConfig


class Side(NamedTuple):
    """A prompt's three forms for one thing: without the direction, and at its two ends."""

    neutral: str
    start: str
    end: str


def read_sides(config: TrainConfig) -> list[Side]:
    """The prompts of a slider, for each thing that an X in them stands for.

    Raises:
        InputError: the two are one, or share no words, so that it is not known what the slider stands beside.
    """
    start, end = (" ".join(text.split()) for text in (config.from_ or "", config.to or ""))
    neutral = config.neutral if config.neutral is not None else _common(start, end)
    if start == end:
        raise InputError("to: is the same as --from, and there is nothing between them")
    if not neutral:
        raise InputError(
            "neutral: --from and --to share no words; say with --neutral what the slider stands beside"
        )
    forms = Side(neutral, start, end)
    if not any(re.search(r"\bX\b", form) for form in forms):
        return [forms]
    return [Side(*(re.sub(r"\bX\b", thing, form) for form in forms)) for thing in config.things]


def _common(first: str, second: str) -> str:
    """The words that two texts share, in order."""
    one, other = first.split(), second.split()
    blocks = SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks()
    return " ".join(word for block in blocks for word in one[block.a : block.a + block.size]).strip(" ,")


def words_between(first: str, second: str) -> str:
    """The words of the second text that the first has not, or else those of the first that the second has not."""
    shared = set(first.split()) & set(second.split())
    for text in (second, first):
        if words := [word for word in text.split() if word not in shared and word != "X"]:
            return " ".join(words)
    return ""

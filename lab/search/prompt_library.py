"""Libraries of prompts that come with the lab: their lines, and what prompts can say something about. Imports no torch.

A line names a subject, then what else it says, between commas. The lines are not stored: they are made of lists of
subjects, techniques, colours and so on when they are asked for, the same each time.
"""

import math
import random
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Literal

from lab.config import validated
from lab.files import read_text
from lab.strict_yaml import read_yaml

LINES = 2000
"""Lines of a library that comes with the lab."""

SUBJECT = "subject"

Family = Literal["emoji", "general"]
"""For the bundled model, which draws what it was trained on and nothing else, and for all others."""

_LISTS = Path(__file__).parent / "libraries"


@cache
def attributes(family: Family) -> dict[str, list[str]]:
    """What the lines of a library are made of: its subjects, and by aspect (technique, colour) what can be said."""
    path = _LISTS / f"{family}.yaml"
    settings, _ = read_yaml(read_text(path), str(path))
    return validated(dict[str, list[str]], settings, path)


def aspects(family: Family) -> list[str]:
    """What the prompts of a library say something about, beside their subject."""
    return [name for name in attributes(family) if name != SUBJECT]


def library_lines(family: Family) -> list[str]:
    """The 2,000 prompts of a library, no two alike: each subject in turn, with one entry of every other list."""
    subjects, *others = attributes(family).values()
    combinations, rounds = math.prod(map(len, others)), math.ceil(LINES / len(subjects))
    drawn = random.Random(0)
    chosen = [drawn.sample(range(combinations), rounds) for _ in subjects]
    lines = (
        ", ".join([subject, *_entries(numbers[turn], others)])
        for turn in range(rounds)
        for subject, numbers in zip(subjects, chosen, strict=True)
    )
    return list(islice(lines, LINES))


def _entries(number: int, lists: list[list[str]]) -> Iterator[str]:
    """One entry of each list: the combination of that number."""
    for entries in lists:
        number, place = divmod(number, len(entries))
        yield entries[place]


def parts_of(prompt: str) -> list[str]:
    """The parts of a prompt between commas, which within brackets part nothing; the first is its subject."""
    parts, depth, begin = [], 0, 0
    for place, letter in enumerate(prompt):
        depth = max(depth + (letter in "([{<") - (letter in ")]}>"), 0)
        if letter == "," and not depth:
            parts.append(prompt[begin:place])
            begin = place + 1
    stripped = (" ".join(part.split()) for part in [*parts, prompt[begin:]])
    return [part for part in stripped if part]

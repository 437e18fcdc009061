"""Seeds as people write them: `1-4,9`."""

import re
from typing import Any

MAX_SEED = 2**64 - 1
MAX_COUNT = 1_000_000

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def parse_seeds(text: str) -> list[int]:
    """Reads comma-separated seeds and inclusive ranges, in the order given.

    Raises:
        ValueError: not of that form, a range that runs backwards, a seed given twice, or one over 2^64 - 1.
    """
    seeds: list[int] = []
    for piece in text.split(","):
        match = _RANGE.fullmatch(piece.strip())
        if not match:
            raise ValueError(f"'{piece.strip()}' is no seed and no range of seeds; write them like 1-4,9")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"the range {piece.strip()} runs backwards; write {last}-{first}")
        if last > MAX_SEED:
            raise ValueError(f"seed {last} is over the largest, {MAX_SEED}")
        if len(seeds) + last - first >= MAX_COUNT:
            raise ValueError(f"{piece.strip()} makes more than {MAX_COUNT:,} seeds; split the run")
        seeds.extend(range(first, last + 1))
    if len(set(seeds)) < len(seeds):
        twice = next(seed for seed in seeds if seeds.count(seed) > 1)
        raise ValueError(f"seed {twice} is given twice")
    return seeds


def join_seeds(value: Any) -> Any:
    """Turns a number, or a list of numbers, into the form that `parse_seeds` reads; leaves the rest alone."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, (list, tuple, range)):
        return ",".join(str(seed) for seed in value)
    return value

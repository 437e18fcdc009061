"""The types of training's options: what may stand for a name, a beginning, a number of vectors, an end. No torch."""

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from lab.files import portable_name

MAX_VECTORS = 64
"""The most vectors an embedding may have; what is left of the text encoder's context is for words."""


def _check_init(value: str) -> str:
    if value not in ("auto", "random", "contrastive", "cross") and not re.match(r"(text|file):.", value):
        raise ValueError(
            f"'{value}' is not auto, contrastive, cross, random, text:WORDS or file:EMBEDDING; write text:{value}"
        )
    return value


Init = Annotated[str, AfterValidator(_check_init)]
Lines = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
Rate = Annotated[float, Field(ge=0, le=1e37)]  # above it, AdamW's first step is no float32


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ValueError(
            f"'{name}' cannot stand in a prompt as <name>; use letters, digits, '-', '_' and '.'"
        )
    if portable_name(name) != name:
        raise ValueError(
            f"Windows can have no file of the name '{name}', and embeddings travel; take another"
        )
    return name


def _check_stop(value: str) -> str:
    if value not in ("auto", "never") and not (value.isascii() and value.isdigit() and int(value) > 0):
        raise ValueError(f"'{value}' is not auto, never or a number of steps")
    return value


Name = Annotated[str, AfterValidator(_check_name)]
Stop = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if isinstance(value, int) else value),
    AfterValidator(_check_stop),
]


def _join_counts(value: object) -> object:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def _check_counts(value: int | str) -> int | str:
    pieces = [piece.strip() for piece in str(value).split(",")]
    if not all(re.fullmatch(r"[0-9]{1,9}", piece) and 1 <= int(piece) <= MAX_VECTORS for piece in pieces):
        raise ValueError(f"'{value}' is not a number from 1 to {MAX_VECTORS}, nor several such as 1,2,4,8")
    counts = sorted({int(piece) for piece in pieces})
    return counts[0] if len(counts) == 1 else ",".join(map(str, counts))


VectorCounts = Annotated[int | str, BeforeValidator(_join_counts), AfterValidator(_check_counts)]
"""A number of vectors; or several, as text such as 1,2,4,8, or as a list."""

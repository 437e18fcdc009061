"""Types of the options' values, with the checks that come with them."""

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

MAX_VECTORS = 64
"""The most vectors an embedding may have; what is left of the text encoder's context is for words."""


def _checked_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ValueError(
            f"'{name}' cannot stand in a prompt as <name>; use letters, digits, '-', '_' and '.'"
        )
    return name


def _checked_stop(value: str) -> str:
    if value not in ("auto", "never") and not (value.isascii() and value.isdigit() and int(value) > 0):
        raise ValueError(f"'{value}' is not auto, never or a number of steps")
    return value


def _checked_init(value: str) -> str:
    if value not in ("auto", "random") and not re.match(r"(text|file):.", value):
        raise ValueError(f"'{value}' is not auto, random, text:WORDS or file:EMBEDDING; write text:{value}")
    return value


Name = Annotated[str, AfterValidator(_checked_name)]
Init = Annotated[str, AfterValidator(_checked_init)]
Stop = Annotated[
    str, BeforeValidator(lambda v: str(v) if isinstance(v, int) else v), AfterValidator(_checked_stop)
]
Lines = Annotated[list[str], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)]
Rate = Annotated[float, Field(ge=0, le=1e37)]  # above it, AdamW's first step is no float32

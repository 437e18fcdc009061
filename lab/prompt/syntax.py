"""What parsing a prompt gives: plain data, no tensors.

Prompt -> Part (one a member of an `AND` composition) -> Variant (one a stretch of steps) -> Segment
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Segment:
    """A run of text under one weight, or a `BREAK`.

    Attributes:
        text: The text with escapes resolved and brackets removed; empty for a break.
        weight: 1.0 for none.
        span: Characters `span[0]:span[1]` of the prompt's source that it came from.
        kind: `break` closes the current chunk.
    """

    text: str
    weight: float
    span: tuple[int, int]
    kind: Literal["text", "break"] = "text"


@dataclass(frozen=True)
class Variant:
    """The prompt as it stands over a stretch of denoising steps.

    Attributes:
        until: The first step, counted from 0, at which it no longer holds.
        text: The prompt with its schedules resolved, weight syntax still in it.
        segments: What `text` says.
    """

    until: int
    text: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Part:
    """A member of an `AND` composition: its weight, and its variants over the steps in order."""

    weight: float
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Prompt:
    """A parsed prompt. A plain one has a single part with a single variant."""

    source: str
    parts: tuple[Part, ...]

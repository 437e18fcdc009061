"""How much a request may ask: of what its numbers say at once, and of what its prompts come to when they are read."""

import secrets
from collections.abc import Collection, Sequence

from lab.errors import InputError
from lab.prompt.parse import parse, references_in, resolve
from lab.sample.config import MAX_SEED, Request
from lab.sample.settings import Settings
from lab.serve.config import ServeOptions

MOST_TEXTS = 2048
"""Texts of one request for their vectors, as in OpenAI's API."""

MOST_CHARACTERS = 1_000_000
"""Of all texts of such a request."""

MOST_TEXTS_WAITING = 64 * MOST_TEXTS

MOST_PROMPT = 10_000
"""Characters of a prompt."""

MOST_READ = 100_000
"""Characters of all that a prompt becomes over its schedule."""

MOST_PARTS = 16
"""What `AND` may join in a prompt: each part costs as much as an image."""

MOST_PIXELS_SENT = 32 * 10**6
"""Of an image that a client sends."""


def following_seeds(first: int | None, count: int) -> range:
    """Seeds that follow one another, from the first that was asked for, or else from one that nobody knows before.

    Raises:
        InputError: they go beyond the largest.
    """
    if first is None:
        first = secrets.randbelow(2**32 - count)
    if first + count - 1 > MAX_SEED:
        raise InputError(f"seed: {first} and those that follow it go beyond the largest, {MAX_SEED}")
    return range(first, first + count)


def check_bounds(
    options: ServeOptions, settings: Settings, requests: Sequence[Request], most: int | None = None
) -> None:
    """Refuses too many images, too many steps, too large images and too long prompts.

    Args:
        settings: Of all requests.
        most: Images; by default what the server takes in a request.

    Raises:
        InputError: says which, and the bound.
    """
    most = options.max_images if most is None else most
    if len(requests) > most:
        raise InputError(f"n: {len(requests)} images are over {most} in a request; ask for fewer")
    if settings.steps > options.max_steps:
        raise InputError(f"steps: {settings.steps} are over {options.max_steps}, this server's most")
    if settings.width * settings.height > options.max_pixels:
        raise InputError(
            f"size: {settings.width}x{settings.height} is over this server's {options.max_pixels:,} pixels"
        )
    longest = max(len(text) for text, _ in _texts(requests))
    if longest > MOST_PROMPT:
        raise InputError(f"prompt: {longest:,} characters are over {MOST_PROMPT:,}; shorten it")


def check_readings(requests: Sequence[Request], steps: int, names: Collection[str]) -> None:
    """Refuses prompts whose syntax makes far more work of them than their length says.

    Args:
        steps: Calls of the U-Net, over which schedules are resolved.
        names: Of the embeddings that there are.

    Raises:
        InputError: says what makes so much of it; or a name that no embedding has.
    """
    dialect = requests[0].options.dialect
    for text, negative in _texts(requests):
        references = references_in(text, names, dialect)
        timelines = resolve(parse(text, dialect, references, negative), steps)
        if len(timelines) > MOST_PARTS:
            raise InputError(
                f"prompt: AND joins {len(timelines)} parts, and {MOST_PARTS} are the most; leave some out"
            )
        if sum(len(variant.text) for timeline in timelines for variant in timeline.variants) > MOST_READ:
            raise InputError(
                f"prompt: its schedule makes over {MOST_READ:,} characters of it; make it simpler"
            )


def check_texts(texts: Sequence[str]) -> None:
    """Refuses no texts, too many of them, and too much text for a request of vectors.

    Raises:
        InputError: says which, and the bound.
    """
    if not texts:
        raise InputError("input: there is none; give a text, or a list of texts")
    if len(texts) > MOST_TEXTS:
        raise InputError(f"input: {len(texts):,} texts are over {MOST_TEXTS:,}; split the request")
    if sum(map(len, texts)) > MOST_CHARACTERS:
        raise InputError(f"input: over {MOST_CHARACTERS:,} characters; split the request")


def _texts(requests: Sequence[Request]) -> dict[tuple[str, bool], None]:
    """The distinct texts of requests, and whether each is a negative prompt."""
    positive = [(request.prompt, False) for request in requests]
    negative = [(request.negative_prompt or "", True) for request in requests]
    return {(text, side): None for text, side in (*positive, *negative) if isinstance(text, str)}

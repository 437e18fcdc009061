"""What a person did wrong, said in one line: what, where, and what to do about it."""

import difflib
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

Value = TypeVar("Value", bound=Hashable)
Thing = TypeVar("Thing")
Read = TypeVar("Read")


class InputError(ValueError):
    """Bad input. The message is one line that the command line prints as it stands (exit code 2)."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


def keep_readable(
    read: Callable[[Thing], Read], things: Iterable[Thing]
) -> tuple[list[Read], list[InputError]]:
    """Reads several things, of which some may be damaged or something else.

    Returns:
        What was read of those that could be, in order, and what is wrong with the others.

    Raises:
        InputError: there are some and none can be read, with what is wrong with the first.
    """
    found, problems = [], []
    for thing in things:
        try:
            found.append(read(thing))
        except InputError as error:
            problems.append(error)
    if problems and not found:
        raise problems[0]
    return found, problems


def given_twice(values: Iterable[Value]) -> Value | None:
    """The first value that comes a second time, or None."""
    seen = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


MOST_NAMES = 20
"""Known names that an error lists."""


def did_you_mean(name: str, known: Iterable[str], count: int = 3) -> str:
    """Returns '; nearest: a, b' for the known names most like `name`, or the known names if none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=count, cutoff=0.5)
    if near:
        return f"; nearest: {', '.join(near)}"
    more = f" and {len(known) - MOST_NAMES} more" if len(known) > MOST_NAMES else ""
    return f"; known: {', '.join(known[:MOST_NAMES])}{more}" if known else ""

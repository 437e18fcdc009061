"""What a person did wrong, said in one line: what, where, and what to do about it."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input. The message is one line that the command line prints as it stands (exit code 2)."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


def did_you_mean(name: str, known: Iterable[str], count: int = 3) -> str:
    """Returns '; nearest: a, b' for the known names most like `name`, or all known names if none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=count, cutoff=0.5)
    if near:
        return f"; nearest: {', '.join(near)}"
    return f"; known: {', '.join(known)}" if known else ""

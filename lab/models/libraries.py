"""Diffusers and transformers at work, kept to one line: silent when all is well, an `InputError` when not."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from lab.errors import InputError


@contextmanager
def quiet() -> Iterator[None]:
    """Turns off their warnings, progress bars and log lines, then puts them back."""
    libraries = (diffusers_logging, transformers_logging)
    levels = [library.get_verbosity() for library in libraries]
    bars = [library.is_progress_bar_enabled() for library in libraries]
    for library in libraries:
        library.set_verbosity(library.CRITICAL)
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for library, level, bar in zip(libraries, levels, bars, strict=True):
            library.set_verbosity(level)
            if bar:
                library.enable_progress_bar()


@contextmanager
def one_line_errors(problem: str, advice: str = "") -> Iterator[None]:
    """Turns whatever the libraries raise for files that are damaged or do not fit into one line.

    They raise nearly every built-in exception and some of their own, so all are caught: put nothing but a library's
    call under it.

    Raises:
        InputError: the problem, the first line of the error, and the advice.
    """
    try:
        with quiet():
            yield
    except Exception as error:
        raise InputError(f"{problem}: {first_line(error)}{advice}") from None


def first_line(error: Exception) -> str:
    """What a library's error says first; the rest is advice for its own users."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

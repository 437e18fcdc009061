"""Axis values as people write them: lists, `1-10 [5]`, `0.2-1.2 (+0.2)`, and texts with commas in quotes."""

import csv
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from lab.files import split_unless_there

NUMBER = r"-?\d+(?:\.\d+)?"
_COUNTED = re.compile(rf"({NUMBER})\s*-\s*({NUMBER})(?:\s*\[\s*(\d+)\s*\])?")
_STEPPED = re.compile(rf"({NUMBER})\s*-\s*({NUMBER})\s*\(\s*([+-]?\d+(?:\.\d+)?)\s*\)")

NONE = "none"
"""How people write that an option or an embedding is left out."""

MAX_VALUES = 10_000
DIGITS = 10
"""Decimals kept in a range, so that 0.2-1.2 (+0.2) holds 0.6 and not 0.6000000000000001."""


def split_values(given: Any, there: Callable[[str], bool] | None = None) -> list[Any]:
    """A list as it stands; of text its parts between commas, of which those with commas are quoted; else one value.

    Args:
        there: Whether a text names a file, say: parts between commas that do so together are one value.
    """
    if isinstance(given, str):
        if there and '"' not in given:
            return split_unless_there(given, ",", there) if given else []
        return list(next(csv.reader([given], skipinitialspace=True), []))
    return list(given) if isinstance(given, (list, tuple)) else [given]


def read_texts(given: Any) -> list[str]:
    """Texts: one, a list, or a line of them (see `split_values`); numbers count as they are written.

    Raises:
        ValueError: a value that is neither text nor a number, such as null.
    """
    values = split_values(given)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError(f"{'null' if value is None else value} is no text; write it in quotes")
    return [str(value) for value in values]


def read_numbers(given: Any, whole: bool = False) -> list[Any]:
    """Numbers: one, a list, or text with numbers and ranges, separated by commas.

    `1-10 [5]` is five numbers from 1 to 10, `0.2-1.2 (+0.2)` goes up in steps, `1-4` goes by ones, as in the X/Y/Z
    plots of the A1111 web UI.

    Args:
        whole: Gives ints instead of floats; of a counted range such as `1-10 [5]` the nearest ones.

    Raises:
        ValueError: not of that form, a range that never ends, or a number with a fraction where none may be.
    """
    numbers: list[Any] = []
    for piece in _pieces(given):
        values = _expand(piece)
        if not all(math.isfinite(number) for number in values):
            raise ValueError(f"'{piece}' is no number that can be used")
        if whole and "[" in str(piece):
            values = [float(math.floor(number + 0.5)) for number in values]
        if whole and any(number != int(number) for number in values):
            raise ValueError(f"'{piece}' is not a whole number")
        numbers += [int(number) for number in values] if whole else values
    return numbers


def read_interval(value: Any) -> list[float]:
    """Where an interval begins and ends: text as `LOW HIGH`, or a list of both.

    Raises:
        ValueError: not of that form.
    """
    ends = (
        value.split() if isinstance(value, str) else list(value) if isinstance(value, (list, tuple)) else []
    )
    try:
        numbers = [read_numbers(end) for end in ends]
    except ValueError:
        numbers = []
    if [len(one) for one in numbers] != [1, 1]:
        raise ValueError(f"'{value}' is no interval; write it as LOW HIGH, such as 0 5")
    return [end for one in numbers for end in one]


def _pieces(given: Any) -> Iterable[Any]:
    for value in given if isinstance(given, (list, tuple)) else [given]:
        yield from (piece.strip() for piece in value.split(",")) if isinstance(value, str) else [value]


def _expand(piece: Any) -> list[float]:
    if isinstance(piece, (int, float)) and not isinstance(piece, bool):
        return [float(piece)]
    text = str(piece)
    if re.fullmatch(NUMBER, text):
        return [float(text)]
    counted, stepped = _COUNTED.fullmatch(text), _STEPPED.fullmatch(text)
    if stepped:
        first, last, step = (float(part) for part in stepped.groups())
    elif counted:
        first, last = float(counted[1]), float(counted[2])
        if counted[3]:
            return _counted(first, last, int(counted[3]), text)
        step = 1.0 if last >= first else -1.0
    else:
        raise ValueError(f"'{text}' is no number; write numbers, 1-10 [5] or 0.2-1.2 (+0.2)")
    if step == 0 or (last - first) * step < 0:
        raise ValueError(f"the range {text} never reaches its end")
    count = math.floor((last - first) / step + 1e-9) + 1
    _check_count(count, text)
    return [round(first + place * step, DIGITS) for place in range(count)]


def _counted(first: float, last: float, count: int, text: str) -> list[float]:
    if count < 1:
        raise ValueError(f"the range {text} has no values")
    _check_count(count, text)
    if count == 1:
        return [first]
    return [round(first + (last - first) * place / (count - 1), DIGITS) for place in range(count)]


def _check_count(count: int, text: str) -> None:
    if count > MAX_VALUES:
        raise ValueError(f"the range {text} has more than {MAX_VALUES:,} values")

"""Axis values as people write them: lists, `1-10 [5]`, `0.2-1.2 (+0.2)`, and texts with commas in quotes."""

import csv
import math
import re
from collections.abc import Iterable
from typing import Any

NUMBER = r"-?\d+(?:\.\d+)?"
_COUNTED = re.compile(rf"({NUMBER})\s*-\s*({NUMBER})(?:\s*\[\s*(\d+)\s*\])?")
_STEPPED = re.compile(rf"({NUMBER})\s*-\s*({NUMBER})\s*\(\s*([+-]?\d+(?:\.\d+)?)\s*\)")

MAX_VALUES = 10_000
DIGITS = 10
"""Decimals kept in a range, so that 0.2-1.2 (+0.2) holds 0.6 and not 0.6000000000000001."""


def texts(value: Any) -> list[str]:
    """A list of texts as it stands, or a line of comma-separated ones, of which those with commas are quoted."""
    if isinstance(value, str):
        return next(csv.reader([value], skipinitialspace=True), [])
    if isinstance(value, (list, tuple)) and all(isinstance(each, (str, int, float)) for each in value):
        return [str(each) for each in value]
    return [str(value)]


def floats(value: Any) -> list[float]:
    """Numbers: one, a list, or text with numbers and ranges, separated by commas.

    `1-10 [5]` is five numbers from 1 to 10, `0.2-1.2 (+0.2)` goes up in steps, `1-4` goes by ones, as in the X/Y/Z
    plots of the A1111 web UI.

    Raises:
        ValueError: not of that form, or a range that never ends.
    """
    return [number for piece in _pieces(value) for number in _range(piece)]


def integers(value: Any) -> list[int]:
    """Whole numbers, written like `floats`; of a counted range the nearest whole ones.

    Raises:
        ValueError: as `floats`, or a number with a fraction.
    """
    found = []
    for piece in _pieces(value):
        numbers = _range(piece)
        if "[" in str(piece):
            numbers = [float(math.floor(number + 0.5)) for number in numbers]
        if any(number != int(number) for number in numbers):
            raise ValueError(f"'{piece}' is not a whole number")
        found += [int(number) for number in numbers]
    return found


def _pieces(value: Any) -> Iterable[Any]:
    for each in value if isinstance(value, (list, tuple)) else [value]:
        yield from (piece.strip() for piece in each.split(",")) if isinstance(each, str) else [each]


def _range(piece: Any) -> list[float]:
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

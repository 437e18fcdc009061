"""The A1111 web UI's attention syntax, `BREAK` and `AND`, as its modules/prompt_parser.py reads them.

A `BREAK` inside brackets is a word of negative weight there, and so it is here; a note says so.
"""

import math
import re

from lab.prompt.syntax import Reading, SegmentBuilder, Span

_TOKEN = re.compile(
    r"\\[()\[\]\\]?|[(\[]|:\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)|[)\]]|[^\\()\[\]:]+|:"
)
_BREAK = re.compile(r"\bBREAK\b\s*")
_AND = re.compile(r"\bAND\b")
_PART_WEIGHT = re.compile(r"[-+]?(?:\d+\.?|\d*\.\d+)")
_FACTORS = {"(": 1.1, "[": 1 / 1.1}
_BREAK_NOTE = "BREAK inside brackets is a word of negative weight, as in the web UI; write it outside of them"
_DEEP = 64
"""Brackets within each other up to which their factors are sorted."""


def read(text: str) -> Reading:
    """Reads attention: `(x)`, `[x]`, `(x:1.3)`, escapes and `BREAK`. Never fails; linear in the length.

    Round and square brackets pair up independently of each other, as in the web UI, and weights multiply.
    """
    if not re.search(r"[\\()\[\]]|BREAK", text):
        builder = SegmentBuilder(text)
        builder.add(0, len(text), 1.0)
        return Reading.of(builder.finish())
    tokens = list(_TOKEN.finditer(text))
    factors, closing = _match_brackets(tokens)
    builder = SegmentBuilder(text)
    opened: dict[str, list[int]] = {"(": [], "[": []}
    running: dict[str, list[float]] = {"(": [1.0], "[": [1.0]}
    for index, token in enumerate(tokens):
        sign, (start, end) = token[0], token.span()
        if sign in _FACTORS:
            opened[sign].append(index)
            running[sign].append(running[sign][-1] * factors[index][1])
        elif index in closing:
            opened[closing[index]].pop()
            running[closing[index]].pop()
        else:
            weight = running["("][-1] * running["["][-1]
            inside = *opened["("], *opened["["]
            if len(inside) <= _DEEP:  # the web UI's order of products, for the same last digit
                weight = math.prod(factor for _, factor in sorted(factors[each] for each in inside))
            _add_text(builder, text, (start + 1, end) if sign[0] == "\\" else (start, end), weight)
    segments = builder.finish()
    broken = any(segment.weight != 1 and _BREAK.search(segment.text) for segment in segments)
    return Reading.of(segments, (_BREAK_NOTE,) if broken else ())


def _match_brackets(
    tokens: list[re.Match[str]],
) -> tuple[dict[int, tuple[int, float]], dict[int, str]]:
    """Returns of each opening bracket its factor and when that is multiplied, and of each closing one what it closes.

    The web UI multiplies where a bracket closes, and those that nothing closes at the end, round ones first.
    """
    factors: dict[int, tuple[int, float]] = {}
    closing: dict[int, str] = {}
    opened: dict[str, list[int]] = {"(": [], "[": []}
    for index, token in enumerate(tokens):
        sign = token[0]
        if sign in _FACTORS:
            order = len(tokens) * (1 if sign == "(" else 2) + index
            factors[index] = order, _FACTORS[sign]
            opened[sign].append(index)
            continue
        kind = "[" if sign == "]" else "("
        if sign[-1] not in ")]" or sign[0] == "\\" or not opened[kind]:
            continue
        closing[index] = kind
        opening = opened[kind].pop()
        factors[opening] = index, _FACTORS[kind] if token["weight"] is None else float(token["weight"])
    return factors, closing


def _add_text(builder: SegmentBuilder, text: str, span: Span, weight: float) -> None:
    start, end = span
    for match in _BREAK.finditer(text, start, end):
        before = start + len(text[start : match.start()].rstrip())
        builder.add(start, before, weight)
        if weight == 1:
            builder.add_break((before, match.end()))
        else:
            if weight:  # of 0, both signs are one weight
                builder.close()
            builder.add(match.start(), match.start() + len("BREAK"), -weight)
            if weight:
                builder.close()
        start = match.end()
    builder.add(start, end, weight)


def compose(text: str) -> list[tuple[float, Span]]:
    """Splits at `AND` into parts, each with the weight that a `:w` at its end gives it, else 1.

    As in the web UI a prompt without `AND` may end in a weight too.
    """
    starts = [0, *(match.end() for match in _AND.finditer(text))]
    ends = [*(match.start() for match in _AND.finditer(text)), len(text)]
    return [_part(text, start, end) for start, end in zip(starts, ends, strict=True)]


def _part(text: str, start: int, end: int) -> tuple[float, Span]:
    colon = text.rfind(":", start, end)
    if colon >= 0 and _PART_WEIGHT.fullmatch(text[colon + 1 : end].strip()):
        weight = float(text[colon + 1 : end])
        if math.isfinite(weight):
            return weight, (start, start + len(text[start:colon].rstrip()))
    return 1.0, (start, start + len(text[start:end].rstrip()))

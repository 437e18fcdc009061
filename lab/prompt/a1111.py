"""The A1111 web UI's attention syntax, `BREAK` and `AND`, as its modules/prompt_parser.py reads them.

A `BREAK` inside brackets is a word of negative weight there, and so it is here; a note says so.
"""

import html
import html.entities
import math
import re
import unicodedata

from lab.prompt.syntax import Reading, SegmentBuilder, Span

_TOKEN = re.compile(
    r"\\[()\[\]\\]?|[(\[]|:\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*\)|[)\]]|[^\\()\[\]:]+|:"
)
_BREAK = re.compile(r"\bBREAK\b\s*")
_AND = re.compile(r"\bAND\b")
_PART_WEIGHT = re.compile(r"[-+]?(?:\d+\.?|\d*\.\d+)")
_FACTORS = {"(": 1.1, "[": 1 / 1.1}
_BREAK_NOTE = "BREAK inside brackets is a word of negative weight, as in the web UI; write it outside of them"
_UNCLEAN = re.compile(
    r"&#?[0-9A-Za-z]{1,24};"
    r"|(?P<gone>\x1b\[[\d;]*[a-zA-Z]|[\0-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc])"
    r"|[\x80-\x9f\u0132\u0133\u0149\u01c4-\u01cc\u01f1-\u01f3\u02bc\u2018-\u201f\u3000\ufb00-\ufb06\uff01-\uffef]"
)
_STRAIGHT = dict.fromkeys("\u02bc\u2018\u2019\u201a\u201b", "'") | dict.fromkeys(
    "\u201c\u201d\u201e\u201f", '"'
)
_STRAIGHT["\ufb05"] = "\u017ft"  # the long s stays
_NESTED = 16
"""Times that what entities gave may be cleaned again, as in `&amp;amp;`."""
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
                weight = math.prod(
                    (factor for _, factor in sorted(factors[each] for each in inside)), start=1.0
                )
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


def clean(text: str) -> tuple[str, list[Span]]:
    """What the web UI reads in place of a text, and for each of its characters where in the text it is from.

    Its tokenizers call ftfy.fix_text, whose steps these are: HTML entities decoded in the lines before a first `<`,
    Windows-1252 in place of control characters, ligatures and full or half width taken apart, curly quotes made
    straight. It also guesses at texts that were decoded wrongly (`donâ€™t`), which is left alone here.
    """
    entities = text.rfind("\n", 0, text.find("<")) + 1 if "<" in text else len(text)
    origins = [(at, at + 1) for at in range(len(text))]
    for _ in range(_NESTED):
        pieces: list[str] = []
        spans: list[Span] = []
        done = 0
        for match in _UNCLEAN.finditer(text):
            start, end = match.span()
            if match[0][0] == "&" and origins[start][0] >= entities:
                continue
            cleaned = _cleaned(match)
            pieces += text[done:start], cleaned
            spans += origins[done:start]
            spans += [(origins[start][0], origins[end - 1][1])] * len(cleaned)
            done = end
        cleaned = "".join(pieces) + text[done:]
        if cleaned == text:
            break
        text, origins = cleaned, spans + origins[done:]
    return text, origins


def _cleaned(match: re.Match[str]) -> str:
    """What ftfy makes of an entity or a character."""
    unclean = match[0]
    if match["gone"]:
        return ""
    if unclean[0] == "&":
        known = unclean[1] == "#" or unclean[1:] in html.entities.html5
        character = html.unescape(unclean)
        return character if known and (character == ";" or ";" not in character) else unclean
    if unclean < "\xa0":
        return unclean.encode("latin-1").decode("cp1252", "ignore") or unclean
    return _STRAIGHT.get(unclean) or unicodedata.normalize("NFKC", unclean)

r"""ComfyUI's attention syntax, as its comfy/sd1_clip.py reads it.

`(x)` multiplies the weight in force by 1.1 and `(x:w)` replaces it; square brackets are plain text; `\(` and `\)`
are literals. Each bracket starts a segment of its own, and so does one that nothing closes.
"""

import re
from collections import deque
from dataclasses import dataclass

from lab.prompt.syntax import Reading, SegmentBuilder

_BRACKET = re.compile(r"\\[()]|[()]")
_MENTION = re.compile(r"(?:^|(?<=[ \n]))embedding:\s*(\S+)")


@dataclass(frozen=True)
class _Group:
    """A pair of brackets that carries weight.

    Attributes:
        stop: Where its text ends: before the `:w`, or at the closing bracket.
        weight: The `w`, or None.
    """

    close: int
    stop: int
    weight: float | None


def read(text: str) -> Reading:
    """Reads attention. Never fails."""
    escapes, groups, unclosed = _find_groups(text)
    builder = SegmentBuilder(text)
    opened: list[_Group] = []
    weights = [1.0]
    position = 0
    marks = [*escapes, *groups, *(group.close for group in groups.values()), *unclosed]
    for mark in sorted(marks):
        end = opened[-1].stop if opened and mark == opened[-1].close else mark
        builder.add(position, end, weights[-1])
        if mark in unclosed:
            builder.close()
            position = mark
            continue
        position = mark + 1
        if mark in escapes:
            continue  # the backslash goes, the bracket after it is text
        builder.close()
        if mark in groups:
            group = groups[mark]
            opened.append(group)
            weights.append(weights[-1] * 1.1 if group.weight is None else group.weight)
        else:
            opened.pop()
            weights.pop()
    builder.add(position, len(text), weights[-1])
    return Reading.of(builder.finish())


def find_mentions(text: str) -> dict[int, str]:
    """Where ComfyUI itself looks for an embedding: the name, commas around it not counted, by where its `embedding:`
    begins.

    A space, a line break or a segment's start is before it, and the name goes on to the next space.
    """
    return {
        segment.locate(*match.span())[0]: match[1].strip(",")
        for segment in read(text).segments
        for match in _MENTION.finditer(segment.text)
    }


def _find_groups(text: str) -> tuple[set[int], dict[int, _Group], set[int]]:
    """Returns where the backslashes of escapes are, the groups by their opening bracket, and where one is that nothing
    closes and that cuts the text all the same.

    Its peculiarities are kept. After a surplus `)` the outermost brackets that follow are plain text, one for each
    surplus. An open bracket makes all that follows plain text; but if the text ends in `)`, the outermost open
    bracket pairs with that last one, whose own partner is then open.
    """
    escapes: set[int] = set()
    groups: dict[int, _Group] = {}
    partner: dict[int, int] = {}
    opened: deque[int] = deque()
    surplus = 0
    for match in _BRACKET.finditer(text):
        at = match.start()
        if len(match[0]) == 2:
            escapes.add(at)
        elif match[0] == "(" and surplus and not opened:
            surplus -= 1
        elif match[0] == "(":
            opened.append(at)
        elif opened:
            partner[at] = opened.pop()
            groups[partner[at]] = _group(text, partner[at], at)
        else:
            surplus += 1
    end = len(text)
    while opened and end - 1 in partner:
        last = end - 1
        opened.append(partner[last])
        del groups[partner[last]]
        first = opened.popleft()
        groups[first] = _group(text, first, last)
        end = groups[first].stop
    if opened:
        groups = {start: group for start, group in groups.items() if start < opened[0]}
    return escapes, groups, set(list(opened)[:1])


def _group(text: str, start: int, close: int) -> _Group:
    colon = text.rfind(":", start + 1, close)
    if colon > start + 1:
        try:
            return _Group(close, colon, float(text[colon + 1 : close]))
        except ValueError:
            pass
    return _Group(close, close, None)

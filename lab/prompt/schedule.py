"""The A1111 web UI's prompt editing: `[from:to:when]`, `[to:when]`, `[from::when]` and `[a|b]`.

Read as modules/prompt_parser.py of the web UI reads it, with a scanner in place of its Earley grammar:

- A bracket that does not close, closes the wrong one, or holds what its kind may not hold is plain text, and so
  is every bracket around it.
- A `|` outside an alternation, or a backslash before a line break or at the end, makes all of it plain text.

The grammar is ambiguous where stray brackets touch a whole schedule, as in `[a:b:3])`; the web UI may then take
either reading, here the schedule always counts.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lab.prompt.syntax import Alternation, Group, Node, Schedule, Span, Text

_SPECIAL = re.compile(r"\\.?|[\[\]():|]")
_NUMBER = re.compile(r"\s*([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*")


class _PlainError(Exception):
    """The whole text turned out to be plain."""


@dataclass
class _Open:
    """A bracket that is still open: the nodes between its separators, and where those are."""

    start: int
    signs: str = ""
    separators: list[int] = field(default_factory=list)
    sections: list[list[Node]] = field(default_factory=lambda: [[]])

    def contents(self) -> Iterator[Node]:
        """What it holds in order, separators as text."""
        yield from self.sections[0]
        for at, section in zip(self.separators, self.sections[1:], strict=True):
            yield Text((at, at + 1))
            yield from section


def parse_nodes(text: str, start: int, end: int) -> tuple[Node, ...]:
    """Parses `text[start:end]`; spans count in `text`. Never fails, and takes time linear in the length."""
    scanner = _Scanner(text, start)
    try:
        for match in _SPECIAL.finditer(text, start, end):
            scanner.read_sign(match[0], match.start())
        return scanner.finish(end)
    except _PlainError:
        return (Text((start, end)),)


class _Scanner:
    """Builds nodes from left to right; `nodes` is what stands outside of all brackets."""

    def __init__(self, text: str, start: int):
        self.text = text
        self.position = start
        self.nodes: list[Node] = []
        self.stack: list[_Open] = []

    def read_sign(self, sign: str, at: int) -> None:
        """Reads the special character at `at`, with what it escapes if it is a backslash."""
        if sign[0] == "\\":
            if len(sign) == 1:
                raise _PlainError
            return  # an escape is part of the text around it
        self._text_until(at)
        if sign in "([":
            self.stack.append(_Open(at))
        elif sign in ")]":
            self._close(sign, at)
        elif self.stack:
            frame = self.stack[-1]
            frame.signs += sign
            frame.separators.append(at)
            frame.sections.append([])
        elif sign == ":":
            self.nodes.append(Text((at, at + 1)))
        else:
            raise _PlainError
        self.position = at + 1

    def finish(self, end: int) -> tuple[Node, ...]:
        self._text_until(end)
        self._reopen_as_text()
        return tuple(self.nodes)

    def _close(self, sign: str, at: int) -> None:
        node = None
        if self.stack:
            close = _round if sign == ")" else _square
            node = close(self.text, self.stack[-1], at)
        if node is None:
            self._reopen_as_text()
            self.nodes.append(Text((at, at + 1)))
        else:
            self.stack.pop()
            self._target().append(node)

    def _reopen_as_text(self) -> None:
        """Open brackets turn out to be text, and what stands in them stands outside."""
        for frame in self.stack:
            if "|" in frame.signs:
                raise _PlainError
            self.nodes.append(Text((frame.start, frame.start + 1)))
            self.nodes.extend(frame.contents())
        self.stack.clear()

    def _target(self) -> list[Node]:
        return self.stack[-1].sections[-1] if self.stack else self.nodes

    def _text_until(self, at: int) -> None:
        if at > self.position:
            self._target().append(Text((self.position, at)))


def _round(text: str, frame: _Open, at: int) -> Node | None:
    if text[frame.start] != "(" or frame.signs not in ("", ":"):
        return None
    return _group(frame, at)


def _square(text: str, frame: _Open, at: int) -> Node | None:
    if text[frame.start] != "[":
        return None
    span = frame.start, at + 1
    if not frame.signs:
        return _group(frame, at)
    if ":" not in frame.signs:
        return Alternation(span, tuple(map(tuple, frame.sections)))
    number = _NUMBER.fullmatch(text, frame.separators[-1] + 1, at)
    if frame.signs not in (":", "::") or number is None:
        return None
    before = frame.sections[0] if len(frame.signs) == 2 else []
    return Schedule(span, tuple(before), tuple(frame.sections[-2]), number[1])


def _group(frame: _Open, at: int) -> Group:
    brackets = Text((frame.start, frame.start + 1)), Text((at, at + 1))
    return Group((frame.start, at + 1), (brackets[0], *frame.contents(), brackets[1]))


def switches(nodes: Sequence[Node], steps: int) -> list[int]:
    """The steps, counted from 0, before which the text may change, and `steps` itself; in order."""
    steps_of_change = {steps}
    rest = list(nodes)
    while rest:
        node = rest.pop()
        if isinstance(node, Alternation):
            steps_of_change.update(range(1, steps + 1))
            for option in node.options:
                rest.extend(option)
        elif isinstance(node, Schedule):
            steps_of_change.add(node.switch(steps))
            rest.extend((*node.before, *node.after))
        elif isinstance(node, Group):
            rest.extend(node.nodes)
    return sorted(step for step in steps_of_change if step >= 1)


def slices_at(nodes: Sequence[Node], step: int, steps: int) -> list[Span]:
    """The pieces of the source that make up the text at a step counted from 0, neighbours joined."""
    slices: list[Span] = []
    rest = list(reversed(nodes))
    while rest:
        node = rest.pop()
        if isinstance(node, Text):
            if slices and slices[-1][1] == node.span[0]:
                slices[-1] = slices[-1][0], node.span[1]
            else:
                slices.append(node.span)
            continue
        if isinstance(node, Group):
            inside = node.nodes
        elif isinstance(node, Alternation):
            inside = node.options[step % len(node.options)]
        else:
            inside = node.before if step < node.switch(steps) else node.after
        rest.extend(reversed(inside))
    return slices

"""What parsing a prompt gives: plain data, no tensors.

    Prompt (one part a member of an `AND` composition) -> Node (text, schedules, alternations)

and, once the number of steps is known,

    Timeline (one a part) -> Variant (one a stretch of steps) -> Reading -> Segment

Every piece of text knows the characters of the source that it came from.
"""

from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal, NamedTuple

Span = tuple[int, int]
"""Characters `span[0]:span[1]` of the source."""


@dataclass(frozen=True)
class Reference:
    """A learned embedding named in a prompt, as `<name>` or `embedding:name`; `name` is the embedding's own."""

    name: str
    span: Span


@dataclass(frozen=True)
class Text:
    """Source text as it stands, weight syntax included."""

    span: Span


@dataclass(frozen=True)
class Group:
    """A closed pair of brackets that means attention, with what stands in it; `nodes` include the brackets."""

    span: Span
    nodes: tuple["Node", ...]


@dataclass(frozen=True)
class Schedule:
    """`[before:after:when]`.

    Attributes:
        when: As written: a step number, or with a decimal point a fraction of the steps.
    """

    span: Span
    before: tuple["Node", ...]
    after: tuple["Node", ...]
    when: str

    def switch(self, steps: int) -> int:
        """The number of steps that `before` holds, at most `steps`; 0 or less for none."""
        share = float(self.when) * (steps if "." in self.when else 1)
        return int(max(min(share, steps), -1))


@dataclass(frozen=True)
class Alternation:
    """`[a|b|c]`: the options in turn, one a step."""

    span: Span
    options: tuple[tuple["Node", ...], ...]


Node = Text | Group | Schedule | Alternation


@dataclass(frozen=True)
class Prompt:
    """A parsed prompt.

    Attributes:
        source: The prompt as it was given.
        dialect: Its name in `DIALECTS`.
        parts: (weight, what it says) of each member of an `AND` composition; one without `AND`. Their spans count in
            the text that is left without comments.
        kept: The pieces of the source that are left without comments.
        references: The learned embeddings that it names, in order.
        notes: What a person should know about how it was read as a whole, one line each.
    """

    source: str
    dialect: str
    parts: tuple[tuple[float, tuple[Node, ...]], ...]
    kept: tuple[Span, ...]
    references: tuple[Reference, ...] = ()
    notes: tuple[str, ...] = ()


class Run(NamedTuple):
    """`length` characters that stand at `at` in a segment's text and at `start` in the source."""

    at: int
    start: int
    length: int


@dataclass(frozen=True)
class Segment:
    """A run of text under one weight, a learned embedding, or a `BREAK`.

    Attributes:
        text: The text with escapes resolved and brackets removed; an embedding's name; empty for a break.
        weight: 1.0 for none.
        span: From its first to its last character in the source.
        kind: `break` closes the current chunk.
        runs: Which characters of the source make up `text`. All of them, in order, except in the compel
            dialect, whose parser adds spaces of its own.
    """

    text: str
    weight: float
    span: Span
    kind: Literal["text", "embedding", "break"] = "text"
    runs: tuple[Run, ...] = ()

    def locate(self, start: int, end: int) -> Span:
        """The span in the source of characters `start:end` of `text` (at least one character)."""
        return self._source(start), self._source(end - 1) + 1

    def run_at(self, at: int) -> int:
        """The index of the run that character `at` of `text` belongs to."""
        return max(bisect_right(self.runs, at, key=lambda run: run.at) - 1, 0)

    def _source(self, at: int) -> int:
        run = self.runs[self.run_at(at)]
        return run.start + min(max(at - run.at, 0), run.length - 1)


@dataclass(frozen=True)
class Blend:
    """A text, or the average of several: compel's `("a cat", "a dog").blend(0.7, 0.3)`.

    Attributes:
        weight: In compel's `.and()` that concatenates such terms; 1.0 for none.
        members: (share, segments) of each text that is averaged; one text without `.blend()`.
        normalized: Whether the average divides by the sum of the shares.
    """

    weight: float
    members: tuple[tuple[float, tuple[Segment, ...]], ...]
    normalized: bool = True


@dataclass(frozen=True)
class Reading:
    """What a text without schedules says in a dialect.

    Attributes:
        terms: Texts whose encodings follow each other; one but for compel's `.and()`.
        pooled: The text whose encoding is pooled for SDXL, if it is another one than the first term's (compel).
        notes: What a person should know about how the text was read, one line each.
        problems: What the text asks for and nobody here can do, one line each.
    """

    terms: tuple[Blend, ...]
    pooled: tuple[Segment, ...] | None = None
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @classmethod
    def of(cls, segments: tuple[Segment, ...], notes: tuple[str, ...] = ()) -> "Reading":
        """The reading of a text that is neither blended nor a conjunction."""
        return cls((Blend(1.0, ((1.0, segments),)),), notes=notes)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments of all terms, in the order of the text."""
        return tuple(segment for term in self.terms for _, segments in term.members for segment in segments)

    def without_negated(self) -> "tuple[Reading, tuple[Reading, ...]]":
        """The reading without what is to be taken away, and each run of that with its weights turned positive.

        As NegPiP's extension does: neighbours of one weight are one text of their own, which is encoded apart.
        """

        def negative_weight(segment: Segment) -> float:
            return segment.weight if is_negated(segment.text, segment.weight) else 0.0

        def rest(term: Blend) -> Blend:
            members = (
                (share, tuple(each for each in run if not negative_weight(each)))
                for share, run in term.members
            )
            return replace(term, members=tuple(members))

        taken = [tuple(run) for weight, run in groupby(self.segments, key=negative_weight) if weight]
        left = replace(self, terms=tuple(map(rest, self.terms)))
        texts = (tuple(replace(each, weight=-each.weight) for each in run) for run in taken)
        return (left if taken else self), tuple(map(Reading.of, texts))


@dataclass(frozen=True)
class Variant:
    """The prompt as it stands over a stretch of denoising steps.

    Attributes:
        until: Its end in the web UI's count; the last step, counted from 0, at which it holds (see
            `lab.condition.conditioning.Part`). The last variant's is the number of steps.
        text: The prompt with its schedules resolved, weight syntax still in it.
        reading: What `text` says.
        entries: How many entries of the web UI's list it stands for: neighbours of equal text are one variant.
    """

    until: int
    text: str
    reading: Reading
    entries: int = 1

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments of the reading."""
        return self.reading.segments


@dataclass(frozen=True)
class Timeline:
    """A part of a prompt over the denoising steps: its weight, and its variants in order."""

    weight: float
    variants: tuple[Variant, ...]


def is_negated(text: str, weight: float) -> bool:
    """Whether a text under a weight is to be taken away. A1111's `BREAK` inside brackets is not, which has one too."""
    return weight < 0 and text != "BREAK"


def whole_text(text: str) -> tuple[Segment, ...]:
    """A text as one segment of weight 1; none if it is empty."""
    return (Segment(text, 1.0, (0, len(text)), "text", (Run(0, 0, len(text)),)),) if text else ()


class SegmentBuilder:
    """Collects text piece by piece and joins neighbours of equal weight."""

    def __init__(self, text: str):
        self.text = text
        self.segments: list[Segment] = []
        self._runs: list[Run] = []
        self._length = 0
        self._weight = 1.0

    def add(self, start: int, end: int, weight: float) -> None:
        """Adds characters `start:end` of the text under a weight; none of another weight part their neighbours too."""
        if weight != self._weight:
            self.close()
            self._weight = weight
        if start == end:
            return
        last = self._runs[-1] if self._runs else None
        if last and last.start + last.length == start:
            self._runs[-1] = Run(last.at, last.start, last.length + end - start)
        else:
            self._runs.append(Run(self._length, start, end - start))
        self._length += end - start

    def add_break(self, span: Span) -> None:
        """Adds a `BREAK`."""
        self.close()
        self.segments.append(Segment("", 1.0, span, "break"))

    def close(self) -> None:
        """Ends the current segment, so that what follows is not joined to it."""
        if self._runs:
            first, last = self._runs[0], self._runs[-1]
            text = "".join(self.text[run.start : run.start + run.length] for run in self._runs)
            span = first.start, last.start + last.length
            self.segments.append(Segment(text, self._weight, span, "text", tuple(self._runs)))
        self._runs, self._length = [], 0

    def finish(self) -> tuple[Segment, ...]:
        """All segments."""
        self.close()
        return tuple(self.segments)

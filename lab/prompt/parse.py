"""From prompt text to data: `parse` in a dialect, then `resolve` over a number of steps."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, islice

from lab.prompt.dialects import DIALECTS, Dialect, find_dialect, foreign_words
from lab.prompt.references import bare_name, find_references, without_suffix
from lab.prompt.schedule import slices_at, switches
from lab.prompt.syntax import (
    Blend,
    Node,
    Prompt,
    Reading,
    Reference,
    Run,
    Segment,
    Span,
    Text,
    Timeline,
    Variant,
)

_MASK = "\ue000"
"""Stands for each character of a reference while a dialect reads the text: no dialect gives it a meaning."""


def parse(
    text: str, dialect: str = "a1111", references: Sequence[Reference] = (), negative: bool = False
) -> Prompt:
    """Parses a prompt: its composition, and its schedules and alternations where the dialect has them.

    Takes any text, in time linear in its length.

    Args:
        dialect: A name in `DIALECTS`.
        references: The embeddings that it names (`find_references`); whatever their names hold is not syntax.
        negative: Whether it is a negative prompt, which has no composition: as in the A1111 web UI, `AND` and a `:1.4`
            at its end are text there, and a note says so.

    Raises:
        InputError: no dialect of that name.
    """
    rules = find_dialect(dialect)
    kept = _kept(text, rules)
    masked = _join(_mask(text, references), kept)
    whole = [(1.0, (0, len(masked)))]
    composed = rules.compose(masked) if rules.compose else whole
    notes = [*_composition_notes(composed, negative), *_mention_notes(text, rules, references)]
    if negative:
        composed = whole
    parts = tuple(
        (weight, rules.schedule(masked, *span) if rules.schedule else (Text(span),))
        for weight, span in composed
    )
    return Prompt(text, dialect, parts, kept, tuple(references), tuple(notes))


def references_in(text: str, names: Iterable[str], dialect: str) -> tuple[Reference, ...]:
    """The embeddings that a prompt names outside of what the dialect takes for comments; see `find_references`.

    Raises:
        InputError: a name that is not known.
    """
    return find_references(without_comments(text, dialect), names)


def without_comments(text: str, dialect: str) -> str:
    """The text with spaces in place of what the dialect takes for comments."""
    pieces, done = [], 0
    for start, end in _kept(text, find_dialect(dialect)):
        pieces += [" " * (start - done), text[start:end]]
        done = end
    return "".join(pieces) + " " * (len(text) - done)


def _kept(text: str, rules: Dialect) -> tuple[Span, ...]:
    comments = [match.span() for match in rules.comment.finditer(text)] if rules.comment else []
    starts, ends = [0, *(end for _, end in comments)], [*(start for start, _ in comments), len(text)]
    return tuple(span for span in zip(starts, ends, strict=True) if span[0] < span[1])


def _join(text: str, spans: Sequence[Span]) -> str:
    return "".join(text[start:end] for start, end in spans)


def _composition_notes(composed: Sequence[tuple[float, Span]], negative: bool) -> Iterator[str]:
    weighted = any(weight != 1 for weight, _ in composed)
    if negative and len(composed) > 1:
        yield "AND is a plain word in a negative prompt; it composes prompts alone"
    if negative and weighted:
        yield "a weight at the end of a negative prompt is text; write (words:1.4)"
    if not negative and weighted and len(composed) == 1:
        yield f"the number at its end multiplies guidance by {composed[0][0]:g}, as in the web UI; it is no text"


def _mention_notes(text: str, rules: Dialect, references: Sequence[Reference]) -> Iterator[str]:
    """Says where the tool would not apply an embedding that is found here, or drop what is none."""
    if rules.mentions is None or "embedding:" not in text:
        return
    mentions = rules.mentions(text)
    for reference in references:
        start, end = reference.span
        if not text.startswith("embedding:", start):
            continue  # `<name>`, which is the lab's
        looked_for = mentions.pop(start, None)
        if looked_for is None:
            yield f"'{text[start:end]}': {rules.label} would not apply it; write a space before it"
        elif bare_name(reference.name) not in (looked_for, without_suffix(looked_for)):
            yield (
                f"'{text[start:end]}': {rules.label} would look for '{looked_for}' and leave it out; write its name as "
                "the file has it and a space behind it"
            )
    for name in mentions.values():
        yield f"{rules.label} would look for an embedding '{name}' and leave it out; here these are words"


def resolve(prompt: Prompt, steps: int) -> tuple[Timeline, ...]:
    """What each part of a prompt says over `steps` denoising steps (at least 1)."""
    masked = _mask(prompt.source, prompt.references)
    return tuple(Timeline(weight, _variants(prompt, nodes, masked, steps)) for weight, nodes in prompt.parts)


def _variants(prompt: Prompt, nodes: Sequence[Node], masked: str, steps: int) -> tuple[Variant, ...]:
    read = DIALECTS[prompt.dialect].read
    offsets = list(accumulate((end - start for start, end in prompt.kept), initial=0))
    variants: list[Variant] = []
    for until in switches(nodes, steps):
        slices = [
            piece
            for span in slices_at(nodes, until - 1, steps)
            for piece in _source_spans(span, prompt.kept, offsets)
        ]
        text = _join(prompt.source, slices)
        if variants and variants[-1].text == text:
            variants[-1] = replace(variants[-1], until=until, entries=variants[-1].entries + 1)
            continue
        reading = read(_join(masked, slices))
        reading = replace(reading, notes=(*prompt.notes, *reading.notes, *_notes(text, prompt.dialect)))
        variants.append(Variant(until, text, _in_source(reading, prompt, slices)))
    return tuple(variants)


def _notes(text: str, dialect: str) -> Iterator[str]:
    """Says so where words that steer another dialect are text."""
    for word, other in foreign_words(dialect).items():
        if re.search(rf"\b{re.escape(word)}\b", text):
            yield f"{word} is a plain word in the {dialect} dialect; in {other} it is syntax"


def _mask(text: str, references: Sequence[Reference]) -> str:
    pieces, done = [], 0
    for reference in references:
        start, end = reference.span
        pieces += [text[done:start], _MASK * (end - start)]
        done = end
    return "".join(pieces) + text[done:]


def _in_source(reading: Reading, prompt: Prompt, slices: Sequence[Span]) -> Reading:
    """Moves a reading of a variant's text to where that text stands in the source, and fills in the references."""
    whole = slices == [(0, len(prompt.source))] or not slices
    if whole and not prompt.references:
        return reading
    known = {reference.span[0]: reference for reference in prompt.references}
    offsets = list(accumulate((end - start for start, end in slices), initial=0))

    def in_source(segments: Sequence[Segment]) -> tuple[Segment, ...]:
        moved = segments if whole else [_move(segment, slices, offsets) for segment in segments]
        return tuple(piece for segment in moved for piece in _cut_at_references(segment, known))

    def blend(term: Blend) -> Blend:
        return replace(term, members=tuple((share, in_source(segments)) for share, segments in term.members))

    pooled = None if reading.pooled is None else in_source(reading.pooled)
    return replace(reading, terms=tuple(map(blend, reading.terms)), pooled=pooled)


def _move(segment: Segment, slices: Sequence[Span], offsets: Sequence[int]) -> Segment:
    spans = _source_spans(segment.span, slices, offsets)
    runs = []
    for run in segment.runs:
        at = run.at
        for start, end in _source_spans((run.start, run.start + run.length), slices, offsets):
            runs.append(Run(at, start, end - start))
            at += end - start
    return replace(segment, span=(spans[0][0], spans[-1][1]), runs=tuple(runs))


def _source_spans(span: Span, slices: Sequence[Span], offsets: Sequence[int]) -> list[Span]:
    """The parts of the source behind characters `span` of the slices' joined text; slice i begins at offsets[i]."""
    spans = []
    for index in range(bisect_right(offsets, span[0]) - 1, bisect_left(offsets, span[1])):
        start, shift = slices[index][0], slices[index][0] - offsets[index]
        spans.append((max(span[0] + shift, start), min(span[1] + shift, slices[index][1])))
    return spans


def _cut_at_references(segment: Segment, known: dict[int, Reference]) -> list[Segment]:
    """Splits a segment around the references in it."""
    if _MASK not in segment.text:
        return [segment]
    pieces: list[Segment] = []
    done = at = 0
    while (at := segment.text.find(_MASK, at)) >= 0:
        reference = known.get(segment.locate(at, at + 1)[0])
        if reference is None:  # the character stands in the source itself
            at += 1
            continue
        start, end = reference.span
        pieces.extend(_cut(segment, done, at))
        pieces.append(replace(segment, text=reference.name, span=(start, end), kind="embedding", runs=()))
        done = at = at + end - start
    pieces.extend(_cut(segment, done, len(segment.text)))
    return pieces


def _cut(segment: Segment, start: int, end: int) -> list[Segment]:
    if start == end:
        return []
    runs = []
    for run in islice(segment.runs, segment.run_at(start), None):
        first, last = max(run.at, start), min(run.at + run.length, end)
        if run.at >= end:
            break
        if first < last:
            runs.append(Run(first - start, run.start + first - run.at, last - first))
    if not runs:  # spaces that the compel library added
        return []
    span = runs[0].start, runs[-1].start + runs[-1].length
    return [replace(segment, text=segment.text[start:end], span=span, runs=tuple(runs))]

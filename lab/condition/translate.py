"""A prompt in another tool's syntax: the text whose prompt embeddings, under that tool's arithmetic, come nearest.

Words stay as they are. Weights are solved for by least squares over the prompt embeddings, as each tool makes
something else of them: 1.3 in the A1111 web UI is no 1.3 in ComfyUI. What the other tool cannot say is left out, and
a note says so.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import least_squares
from torch import Tensor

from lab.condition.conditioning import Encoding
from lab.condition.config import TextOptions
from lab.condition.prompt_encoder import PromptEncoder
from lab.embeddings.library import Sources
from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.prompt.dialects import Dialect, find_dialect
from lab.prompt.syntax import Reading, Segment, Timeline

LIGHTEST, HEAVIEST = 0.0, 4.0
"""Weights among which the nearest are looked for."""

DIGITS = 3
"""Decimals of a weight that is written."""

MOST_TRIES = 4
"""Steps of the search for weights: in every tool's arithmetic states are nearly linear in them."""


@dataclass(frozen=True)
class Translation:
    """A prompt in another syntax.

    Attributes:
        text: For the other tool.
        residual: What of the prompt's effect is not met: the distance of the two prompt embeddings over that of the
            prompt's from the empty text's; 0 for none.
        carried: The same with the weights as they were written.
        notes: What cannot be said there, one line each.
    """

    text: str
    residual: float
    carried: float
    notes: tuple[str, ...]


class Translator:
    """Translates prompts for one bundle from one dialect into another."""

    def __init__(self, bundle: Bundle, embeddings: Sources, options: TextOptions, to: str, steps: int):
        """Takes how prompts are read (`options`, over `steps` denoising steps) and the name of the other dialect.

        Raises:
            InputError: no such dialect, or one that has no weights.
        """
        self._own, self._other = find_dialect(options.dialect), find_dialect(to)
        if self._other.emphasis is None:
            raise InputError(f"to: the {to} dialect has no weights to write; take another")
        self._name = to
        self._from = PromptEncoder(bundle, embeddings, options, steps)
        bare = self._other.mention == "{name}"
        there = options.model_copy(update={"dialect": to, "weighting": None, "bare_names": bare})
        self._to = PromptEncoder(bundle, embeddings, there, steps)
        self._empty = self._from.encode([""])[""].embeds

    def translate(self, prompt: str) -> Translation:
        """The prompt for the other tool.

        Raises:
            InputError: a prompt that cannot be encoded.
        """
        target = self._from.encode([prompt])[prompt].first
        timelines = self._from.read(prompt)
        reading = timelines[0].variants[0].reading
        segments = list(_without_gaps(_main_text(reading)))
        notes = [*_what_is_lost(timelines, reading, self._other, self._name)]
        weighted = [number for number, segment in enumerate(segments) if segment.weight != 1]
        first = [segments[number].weight for number in weighted]
        text = self._written(segments, weighted, first)
        carried = self._encoded(text)
        if not self._same_words(prompt, text):
            notes.append("the words do not lie in the same places there, so the weights stay as they are")
        elif weighted:
            best = self._solved(segments, weighted, first, target)
            solved = self._written(segments, weighted, best)
            if self._residual(self._encoded(solved), target) < self._residual(carried, target):
                text = solved
        found = self._encoded(text)
        if (
            found.pooled is not None
            and target.pooled is not None
            and not torch.allclose(found.pooled, target.pooled)
        ):
            notes.append(f"{self._other.label} pools another text for SDXL's second text encoder")
        return Translation(
            text, self._residual(found, target), self._residual(carried, target), tuple(dict.fromkeys(notes))
        )

    def _encoded(self, text: str) -> Encoding:
        return self._to.encode([text])[text].first

    def _solved(
        self, segments: Sequence[Segment], weighted: Sequence[int], first: Sequence[float], target: Encoding
    ) -> list[float]:
        """The weights whose prompt embeddings are nearest the target's."""

        def missing(weights: Sequence[float]) -> object:
            found = self._encoded(self._written(segments, weighted, weights, digits=9)).embeds
            return (found - target.embeds).flatten().double().numpy()

        begin = [min(max(weight, LIGHTEST + 0.01), HEAVIEST - 0.01) for weight in first]
        bounds = (LIGHTEST, HEAVIEST)
        found = least_squares(missing, begin, bounds=bounds, diff_step=0.02, max_nfev=MOST_TRIES, ftol=1e-4)
        return [float(weight) for weight in found.x]

    def _residual(self, found: Encoding, target: Encoding) -> float:
        rows = max(len(found.embeds), len(target.embeds))
        here, there = self._filled(target.embeds, rows), self._filled(found.embeds, rows)
        effect = (here - self._filled(self._empty, rows)).norm()
        return float((there - here).norm() / effect) if effect else float((there - here).norm() > 0)

    def _filled(self, embeds: Tensor, rows: int) -> Tensor:
        """Embeds (n, d) at the length of the longer text, with empty chunks behind them."""
        return torch.cat([embeds, self._empty.repeat((rows - len(embeds)) // len(self._empty), 1)])

    def _same_words(self, prompt: str, text: str) -> bool:
        """Whether the text encoders see the same chunks."""
        here, there = (
            [chunk.seen for chunks in encoder.chunks(encoder.read(said)[0].variants[0]) for chunk in chunks]
            for encoder, said in ((self._from, prompt), (self._to, text))
        )
        return here == there

    def _written(
        self,
        segments: Sequence[Segment],
        weighted: Sequence[int],
        weights: Sequence[float],
        digits: int = DIGITS,
    ) -> str:
        chosen = {number: round(weight, digits) for number, weight in zip(weighted, weights, strict=True)}
        pieces = [_spelled(one, chosen.get(number, 1.0), self._other) for number, one in enumerate(segments)]
        return re.sub(r" +", " ", "".join(pieces)).replace(" ,", ",").strip()


def _main_text(reading: Reading) -> tuple[Segment, ...]:
    """The segments of a text, or of the heaviest that compel averages first."""
    return max(reading.terms[0].members, key=lambda member: member[0])[1]


def _without_gaps(segments: Sequence[Segment]) -> Iterator[Segment]:
    """The segments that hold more than spaces."""
    return (segment for segment in segments if segment.kind == "break" or segment.text.strip())


def _what_is_lost(
    timelines: Sequence[Timeline], reading: Reading, other: Dialect, name: str
) -> Iterator[str]:
    """Says what of a prompt's syntax the other dialect cannot say, one line each."""
    if len(timelines) > 1:
        yield f"{name} has no AND here; this is the first of {len(timelines)} parts"
    elif timelines[0].weight != 1:
        yield f"the number at its end, which multiplies guidance by {timelines[0].weight:g}, is left out"
    if len(timelines[0].variants) > 1:
        yield "what changes over the steps is left out; this is the prompt of the first step"
    if len(reading.terms) > 1 or len(reading.terms[0].members) > 1:
        yield "a blend or conjunction of several texts is left out; this is the first, or the heaviest of a blend"
    if any(segment.kind == "break" for segment in reading.segments) and "BREAK" not in other.words:
        yield f"{name} has no BREAK; the words behind it follow at once"


def _spelled(segment: Segment, weight: float, dialect: Dialect) -> str:
    """A segment as a dialect writes it under a weight; spaces at its ends stay outside of brackets."""
    if segment.kind == "break":
        return " BREAK " if "BREAK" in dialect.words else " "
    if segment.kind == "embedding":
        text = dialect.mention.format(name=segment.text)
        return f" {_weighted(text, weight, dialect)} "
    text = dialect.special.sub(r"\\\g<0>", segment.text) if dialect.special else segment.text
    core = text.strip()
    if weight == 1 or not core:
        return text
    start = text.index(core)
    return f"{text[:start] or ' '}{_weighted(core, weight, dialect)}{text[start + len(core) :] or ' '}"


def _weighted(text: str, weight: float, dialect: Dialect) -> str:
    if weight == 1 or dialect.emphasis is None:
        return text
    return dialect.emphasis.format(text=text, weight=weight)

"""The compel library's own parser, with its findings as this package's data.

The library is the grammar: `word++`, `(some words)1.3`, `("a", "b").blend(0.7, 0.3)`, `("a", "b").and(1, 0.5)`.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from lab.prompt.syntax import Blend, Reading, Run, Segment, whole_text

if TYPE_CHECKING:
    from compel.prompt_parser import PromptParser

_WEIGHT = re.compile(r"""[)"]*(?:\.attend\()?[-+.\d]*""")
_MOST_SIGNS = 1000
"""Brackets and quotes; the library needs time quadratic in the number of quotes."""
_LONGEST = 4000
"""Characters; the library needs a millisecond for each."""


def read(text: str) -> Reading:
    """Reads a prompt as compel does; what the library cannot parse is plain text, and a note says so."""
    if sum(map(text.count, '()"')) > _MOST_SIGNS:
        return _plain(text, f"more than {_MOST_SIGNS} brackets and quotes")
    if len(text) > _LONGEST:
        return _plain(text, f"longer than {_LONGEST} characters")
    try:
        conjunction = _parser().parse_conjunction(text)
    except Exception as error:  # any text must parse, and the library raises errors of many kinds
        return _plain(text, f"{type(error).__name__} in the compel library")
    aligner = _Aligner(text)
    terms = tuple(
        aligner.blend(term, float(weight))
        for term, weight in zip(conjunction.prompts, conjunction.weights, strict=True)
    )
    problems = []
    if conjunction.lora_weights:
        problems.append("the compel dialect's withLora(): a LoRA is loaded by --lora FILE=scale")
    if aligner.swaps:
        problems.append(
            "the compel dialect's .swap() edits attention maps, which the lab does not do; leave it out"
        )
    # The library pools the prompt as it was typed, operators and all.
    return Reading(terms or Reading.of(()).terms, whole_text(text), problems=tuple(problems))


def _plain(text: str, why: str) -> Reading:
    return Reading.of(whole_text(text), (f"the compel dialect takes this prompt as plain text: {why}",))


@cache
def _parser() -> "PromptParser":
    # The library takes a moment to import and to build its grammar.
    import pyparsing
    from compel.prompt_parser import PromptParser

    pyparsing.ParserElement.enable_packrat()  # its grammar takes time exponential in the nesting without
    return PromptParser()


class _Aligner:
    """Finds the library's fragments in the source, which it does not keep track of."""

    def __init__(self, text: str):
        self.text = text
        self.position = 0
        self.swaps = False

    def blend(self, term: Any, weight: float) -> Blend:
        """Converts a term of a conjunction: a `Blend` or a `FlattenedPrompt` of the library's."""
        if hasattr(term, "prompts"):
            members = zip(term.weights, term.prompts, strict=True)
            return Blend(
                weight,
                tuple((float(share), self._segments(prompt.children)) for share, prompt in members),
                term.normalize_weights,
            )
        return Blend(weight, ((1.0, self._segments(term.children)),))

    def _segments(self, fragments: Sequence[Any]) -> tuple[Segment, ...]:
        segments: list[Segment] = []
        for fragment in fragments:
            if hasattr(fragment, "original"):
                self.swaps = True
                segments.extend(self._segments(fragment.original))
            elif fragment.text.strip():
                segments.append(self._segment(fragment.text, float(fragment.weight)))
        return tuple(segments)

    def _segment(self, text: str, weight: float) -> Segment:
        runs: list[Run] = []
        for word in re.finditer(r"\S+", text):
            start = self.text.find(word[0], self.position)
            if start >= 0:
                runs.append(Run(word.start(), start, len(word[0])))
                self.position = start + len(word[0])
            else:
                self._spell(word[0], word.start(), runs)
        if weight != 1.0:
            match = _WEIGHT.match(self.text, self.position)
            self.position = match.end() if match else self.position
        if not runs:
            runs = [Run(0, min(self.position, max(len(self.text) - 1, 0)), 1)]
        span = runs[0].start, max(run.start + run.length for run in runs)
        return Segment(text, weight, span, "text", tuple(runs))

    def _spell(self, word: str, at: int, runs: list[Run]) -> None:
        """Finds the characters of a word one by one: the library has removed escapes within it."""
        for offset, character in enumerate(word):
            start = self.text.find(character, self.position)
            if start >= 0:
                runs.append(Run(at + offset, start, 1))
                self.position = start + 1

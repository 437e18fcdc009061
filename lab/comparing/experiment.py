"""An experiment: every variant with every prompt and seed, checked before anything is generated."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from lab.comparing.axes import AXES, EMBEDDING_AXES, AxisValue, CellDraft
from lab.comparing.config import CompareConfig, read_axes, stand_in
from lab.comparing.embedding_axes import place_embeddings, tidy
from lab.embeddings.embedding import Embedding
from lab.embeddings.library import Sources, collect
from lab.errors import InputError, did_you_mean
from lab.prompt.parse import parse, references_in, resolve
from lab.prompt.references import find_bare_names
from lab.sample.config import GenerateConfig, parse_seeds

_NOT_OF_ONE_IMAGE = {"seeds", "out", "model"}
"""Options that cells do not have of themselves: the bundle makes them, unless an axis names another model."""

DEFAULT_STEPS = 20
"""Over which schedules are resolved to read a prompt's words; the words do not depend on it."""


@dataclass(frozen=True)
class Variant:
    """One combination of axis values.

    Attributes:
        index: Its place among the variants.
        name: The values that vary, as `axis=value`.
        labels: Each axis with its value as people write it.
        values: One of each axis.
        short: The values that vary, without their axes.
    """

    index: int
    name: str
    labels: Mapping[str, str]
    values: tuple[AxisValue, ...]
    short: str


@dataclass(frozen=True)
class Cell:
    """One image of the experiment.

    Attributes:
        index: Its place: variant-major, then prompts, then seeds.
        picture: The index of the first cell that is made from the same things, and whose image it shares.
        pair: Prompt and seed, as places in the experiment's lists.
        prompt: As it is encoded, with the embeddings of an axis in it.
        options: Everything else that makes the image, but for the seed.
        words: What the prompt says, without embeddings, weight syntax and schedules.
        embeddings: Those that the prompt and the negative prompt name.
    """

    index: int
    picture: int
    variant: Variant
    pair: tuple[int, int]
    prompt: str
    seed: int
    options: GenerateConfig
    words: str
    embeddings: tuple[Embedding, ...]


class Experiment:
    """The cells of a comparison: every variant with every prompt and seed.

    Attributes:
        config: What was asked for.
        variants: In the order of the axes' values, the last axis fastest.
        baseline: The variant that the others are compared with.
        contrasts: Other pairs of variants: how the first differs from the second.
        prompts: One empty text where an axis brings them.
        seeds: One of no account where an axis brings them.
        cells: Of all variants.
    """

    def __init__(self, config: CompareConfig, embeddings: Sources = ()):
        """Checks a config and lays it out.

        Args:
            embeddings: What prompts and axes may name beside what the config offers.

        Raises:
            InputError: unknown or clashing axes, no baseline, nothing to compare, unknown embeddings.
        """
        self.config = config = stand_in(config)
        self._given = collect(embeddings)
        self._libraries: dict[tuple[str, ...], Mapping[str, Embedding]] = {}
        axes, baseline = read_axes(config)
        self.variants = _variants(axes)
        self.baseline = next(variant for variant in self.variants if variant.labels == baseline)
        self.contrasts = [read_contrast(text, self.variants) for text in config.contrast]
        self.prompts = config.prompts or [""]
        self.seeds = parse_seeds(config.seeds) if "seed" not in config.axes else [0]
        self.cells = self._with_words_kept(self._lay_out())

    @property
    def pairs(self) -> int:
        """Images of one variant."""
        return len(self.prompts) * len(self.seeds)

    @cached_property
    def pictures(self) -> list[Cell]:
        """The cells whose images are made; the others share theirs."""
        return [cell for cell in self.cells if cell.index == cell.picture]

    def cell(self, variant: Variant, prompt: int, seed: int) -> Cell:
        """The cell of a variant at a place of the prompts and the seeds."""
        return self.cells[(variant.index * len(self.prompts) + prompt) * len(self.seeds) + seed]

    def counterpart(self, cell: Cell) -> Cell:
        """The baseline's cell with the same prompt and noise."""
        return self.cell(self.baseline, *cell.pair)

    def library(self, options: GenerateConfig) -> Mapping[str, Embedding]:
        """The embeddings that prompts may name with these options; files are read once."""
        files = tuple(options.embedding)
        if files not in self._libraries:
            self._libraries[files] = collect(self._given, files, options.embeddings)
        return self._libraries[files]

    def _lay_out(self) -> list[Cell]:
        cells: list[Cell] = []
        first: dict[tuple[str, str, int], int] = {}
        for variant, place in itertools.product(self.variants, range(len(self.prompts))):
            drafts = [self._draft(variant, place, seed) for seed in self.seeds]
            prompt, options = self._finished(drafts[0])  # no axis changes more than the seed among them
            library, key = self.library(options), repr(options.model_dump())
            words = _words(prompt, options.dialect, library, options.steps or DEFAULT_STEPS)
            named = _named(prompt, options, library)
            for turn, draft in enumerate(drafts):
                picture = first.setdefault((prompt, key, draft.seed), len(cells))
                made_from = (prompt, draft.seed, options, words, named)
                cells.append(Cell(len(cells), picture, variant, (place, turn), *made_from))
        return cells

    def _with_words_kept(self, cells: list[Cell]) -> list[Cell]:
        """The cells; where an axis changes the text but not what shall be seen, with the baseline's words."""
        if not any(AXES[name].keeps_words for name in self.config.axes):
            return cells
        base = cells[self.baseline.index * self.pairs : (self.baseline.index + 1) * self.pairs]
        return [replace(cell, words=base[cell.index % self.pairs].words) for cell in cells]

    @cached_property
    def _shared(self) -> dict[str, Any]:
        """The settings that all cells have."""
        shared = {
            name: value
            for name, value in self.config.given().items()
            if name in GenerateConfig.model_fields and name not in _NOT_OF_ONE_IMAGE
        }
        if set(EMBEDDING_AXES) & self.config.axes.keys():
            # so that `none` differs from a negative embedding in that alone
            shared["negative_prompt"] = shared.get("negative_prompt") or ""
        return shared

    def _draft(self, variant: Variant, prompt: int, seed: int) -> CellDraft:
        draft = CellDraft(self.prompts[prompt], seed, self._shared)
        for value in variant.values:
            draft = value.apply(draft)
        return draft

    def _finished(self, draft: CellDraft) -> tuple[str, GenerateConfig]:
        """The prompt with the embeddings in it, and the options with the negative prompt likewise."""
        options = GenerateConfig.build(draft.settings, where="axes")
        prompt, negative = place_embeddings(
            (draft.prompt, draft.settings.get("negative_prompt")),
            draft.embeddings,
            draft.weight,
            self.library(options),
            options.dialect,
            self.config.embedding_side,
        )
        if negative is not None:
            options = GenerateConfig.build({**draft.settings, "negative_prompt": negative}, where="axes")
        return prompt, options


def _named(prompt: str, options: GenerateConfig, library: Mapping[str, Embedding]) -> tuple[Embedding, ...]:
    """The embeddings that a prompt and its negative prompt name."""
    names: list[str] = []
    for text in (prompt, options.negative_prompt or ""):
        names += [reference.name for reference in references_in(text, library, options.dialect)]
        if options.bare_names:
            names += find_bare_names(text, library)
    return tuple(library[name] for name in dict.fromkeys(names))


def _words(prompt: str, dialect: str, library: Mapping[str, Embedding], steps: int) -> str:
    """What a prompt says: without embeddings, weight syntax and schedules, whose last stage counts."""
    parsed = parse(prompt, dialect, references_in(prompt, library, dialect))
    parts = (
        "".join(segment.text if segment.kind == "text" else " " for segment in timeline.variants[-1].segments)
        for timeline in resolve(parsed, steps)
        if timeline.variants
    )
    return tidy(", ".join(parts))


def _variants(axes: Mapping[str, Sequence[AxisValue]]) -> list[Variant]:
    varying = [name for name, values in axes.items() if len(values) > 1]
    variants = []
    for index, values in enumerate(itertools.product(*axes.values())):
        labels = {name: value.label for name, value in zip(axes, values, strict=True)}
        told = {axis: _quoted(labels[axis]) for axis in varying}
        name, short = ", ".join(f"{axis}={label}" for axis, label in told.items()), ", ".join(told.values())
        variants.append(Variant(index, name, labels, values, short))
    return variants


def read_contrast(text: str, variants: Sequence[Variant]) -> tuple[Variant, Variant]:
    """The two variants that a text names with a comma between them, by their names or their values alone.

    Raises:
        InputError: it names no two of the variants.
    """
    known = {name: variant for variant in variants for name in (variant.short, variant.name)}
    known |= {variant.short.strip('"'): variant for variant in variants}  # one value with commas in it
    for comma in re.finditer(",", text):
        sides = [side.strip() or "(empty)" for side in (text[: comma.start()], text[comma.end() :])]
        if all(side in known for side in sides) and known[sides[0]] is not known[sides[1]]:
            return known[sides[0]], known[sides[1]]
    first = next((side.strip() for side in text.split(",") if side.strip() not in known), text)
    nearest = did_you_mean(first, [variant.short for variant in variants])
    raise InputError(f"contrast: '{text}' names no two variants; write A,B{nearest}")


def _quoted(label: str) -> str:
    """A label as a part of a variant's name, in which commas stand between axes."""
    return f'"{label}"' if "," in label else label or "(empty)"

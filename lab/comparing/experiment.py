"""An experiment: every variant with every prompt and seed, checked before anything is generated."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lab.comparing.axes import AXES, Choice, Draft, read_choices
from lab.comparing.config import CompareConfig
from lab.comparing.placing import place, plain_text
from lab.embeddings.embedding import Embedding
from lab.embeddings.library import Sources, collect
from lab.errors import InputError, did_you_mean
from lab.prompt.references import find_bare_names, find_references
from lab.sample.config import GenerateConfig, parse_seeds

_NOT_OF_ONE_IMAGE = {"seeds", "out", "batch_size"}

DEFAULT_STEPS = 20
"""Over which schedules are resolved to read a prompt's words; the words do not depend on it."""


@dataclass(frozen=True)
class Variant:
    """One combination of axis values.

    Attributes:
        name: The values that vary, as `axis=value`.
        labels: Each axis with its value as people write it.
    """

    index: int
    name: str
    labels: Mapping[str, str]
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Cell:
    """One image of the experiment.

    Attributes:
        index: Its place: variant-major, then prompts, then seeds.
        picture: The index of the first cell that is made from the same things, and whose image it shares.
        pair: Prompt and seed, as places in the experiment's lists.
        options: Everything that makes it, but for prompt and seed.
        text: What the prompt says, without embeddings and weight syntax.
        used: The embeddings that its prompts name.
    """

    index: int
    picture: int
    variant: Variant
    pair: tuple[int, int]
    prompt: str
    seed: int
    options: GenerateConfig
    text: str
    used: tuple[Embedding, ...]


class Experiment:
    """The cells of a comparison.

    Attributes:
        variants: In the order of the axes' values, the last axis fastest.
        baseline: The variant that the others are compared with.
        cells: Of all variants.
    """

    def __init__(self, config: CompareConfig, embeddings: Sources = ()):
        """Checks a config and lays it out.

        Raises:
            InputError: unknown or clashing axes, no baseline, nothing to compare, unknown embeddings.
        """
        self.config = config
        self._given = collect(embeddings)
        self._libraries: dict[tuple[str, ...], Mapping[str, Embedding]] = {}
        _check_axes(config)
        choices = {name: read_choices(name, given) for name, given in config.axes.items()}
        self.variants = _variants(choices)
        self.baseline = _baseline(config, choices, self.variants)
        self.prompts = config.prompts or [""]
        self.seeds = parse_seeds(config.seeds) if "seed" not in config.axes else [0]
        if "prompt_replace" in choices:
            _check_replaced(choices["prompt_replace"][0].label, self.prompts)
        self.cells = self._lay_out()

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
        """The embeddings that a variant's prompts may name."""
        files = tuple(options.embedding)
        if files not in self._libraries:
            self._libraries[files] = collect(self._given, files, options.embeddings)
        return self._libraries[files]

    def _lay_out(self) -> list[Cell]:
        cells: list[Cell] = []
        first: dict[tuple[str, str, int], int] = {}
        for variant, prompt in itertools.product(self.variants, range(len(self.prompts))):
            drafts = [self._draft(variant, prompt, seed) for seed in self.seeds]
            text, options, words, used = self._settle(drafts[0])
            key = options.model_dump_json()
            for turn, draft in enumerate(drafts):
                picture = first.setdefault((text, key, draft.seed), len(cells))
                pair = (prompt, turn)
                cells.append(Cell(len(cells), picture, variant, pair, text, draft.seed, options, words, used))
        return cells

    @cached_property
    def _shared(self) -> dict[str, Any]:
        """The settings that all cells have."""
        shared = {
            name: value
            for name, value in self.config.given().items()
            if name in GenerateConfig.model_fields and name not in _NOT_OF_ONE_IMAGE
        }
        if {"embedding", "embedding_checkpoint"} & self.config.axes.keys():
            # so that `none` differs from a negative embedding in that alone
            shared["negative_prompt"] = shared.get("negative_prompt") or ""
        return shared

    def _draft(self, variant: Variant, prompt: int, seed: int) -> Draft:
        draft = Draft(self.prompts[prompt], seed, self._shared)
        for choice in variant.choices:
            draft = choice.apply(draft)
        return draft

    def _settle(self, draft: Draft) -> tuple[str, GenerateConfig, str, tuple[Embedding, ...]]:
        """The final prompt, the settings, the prompt's words, and the embeddings that it and the negative name."""
        options = GenerateConfig.build(draft.settings, where="axes")
        library = self.library(options)
        prompt, negative = place(draft, library, options.dialect, self.config.embedding_side)
        if negative is not None:
            options = GenerateConfig.build({**draft.settings, "negative_prompt": negative}, where="axes")
        words = plain_text(prompt, options.dialect, library, options.steps or DEFAULT_STEPS)
        named: list[str] = []
        for text in (prompt, negative or ""):
            named += [reference.name for reference in find_references(text, library)]
            if options.bare_names:
                named += find_bare_names(text, library)
        return prompt, options, words, tuple(library[name] for name in dict.fromkeys(named))


def _check_axes(config: CompareConfig) -> None:
    for name in config.axes:
        if name not in AXES:
            raise InputError(f"axes: unknown axis '{name}'{did_you_mean(name, AXES)}")
    given = {name for name, value in config.given().items() if value not in (None, [], {})}
    for name in config.axes:
        for option in AXES[name].replaces:
            if option in given:
                raise InputError(
                    f"axes: '{name}' varies what the option '{option}' fixes; leave one of them out"
                )
        for other in AXES[name].excludes:
            if other in config.axes:
                raise InputError(
                    f"axes: '{name}' and '{other}' cannot be combined; run them one after the other"
                )
    if not config.axes:
        raise InputError("axes: there is none, so there is nothing to compare; give --axis NAME=VALUE,VALUE")
    if "embedding_weight" in config.axes and not {"embedding", "embedding_checkpoint"} & config.axes.keys():
        raise InputError(
            "axes: embedding_weight weighs the embeddings of an axis; give axes: embedding as well"
        )
    if not config.prompts and "prompt" not in config.axes:
        raise InputError("prompts: there is none; give --prompt")
    for name in config.baseline:
        if name not in config.axes:
            raise InputError(f"baseline: '{name}' is no axis here{did_you_mean(name, config.axes)}")


def _variants(choices: Mapping[str, Sequence[Choice]]) -> list[Variant]:
    varying = [name for name, values in choices.items() if len(values) > 1]
    if not varying:
        raise InputError("axes: each has one value, so there is nothing to compare; give a second one")
    variants = []
    for index, chosen in enumerate(itertools.product(*choices.values())):
        labels = {name: choice.label for name, choice in zip(choices, chosen, strict=True)}
        name = ", ".join(f"{axis}={_quoted(labels[axis])}" for axis in varying)
        variants.append(Variant(index, name, labels, chosen))
    return variants


def _quoted(label: str) -> str:
    """A label as a part of a variant's name, in which commas stand between axes."""
    return f'"{label}"' if "," in label else label or "(empty)"


def _baseline(
    config: CompareConfig, choices: Mapping[str, Sequence[Choice]], variants: Sequence[Variant]
) -> Variant:
    wanted = {}
    for name, values in choices.items():
        labels = [choice.label for choice in values]
        wanted[name] = labels[0]
        if name in config.baseline:
            asked = config.baseline[name]
            label = "" if asked == "" else ", ".join(choice.label for choice in read_choices(name, [asked]))
            if label not in labels:
                raise InputError(
                    f"baseline: {name} has no value '{label}'; it has {', '.join(map(repr, labels))}"
                )
            wanted[name] = label
    return next(variant for variant in variants if variant.labels == wanted)


def _check_replaced(searched: str, prompts: Sequence[str]) -> None:
    if not any(searched in prompt for prompt in prompts):
        raise InputError(f"axes: prompt_replace: no prompt has '{searched}' in it")

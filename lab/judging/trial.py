"""Embeddings tried on one model: blocks of prompts are drawn and scored until the question is answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState

from lab.comparing.cells import check_cells, make_cells
from lab.comparing.config import CompareConfig
from lab.comparing.embedding_axes import SLOT, written_name
from lab.comparing.experiment import Experiment, Variant
from lab.comparing.scores import Scorer, Scores, choose_scores
from lab.comparing.statistics import Array
from lab.embeddings.embedding import INITIAL_TEXT, Embedding
from lab.errors import InputError
from lab.judging.config import WORDS, JudgeConfig, Side, choose_prompts, read_weights
from lab.judging.looks import Look, forecast, take_look
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.models.source import ASSETS
from lab.prompt.dialects import find_dialect
from lab.runs.run import RunFolder, text_digest
from lab.score.metrics import METRICS
from lab.score.tools import open_tools

FIRST = {
    "negative": ("degraded", "pickscore", "hpsv2", "aesthetic", "clip_text"),
    "positive": ("dino_reference", "clip_reference", "clip_text"),
}
"""What the verdict is about: the first of these metrics that can be had."""

INDEPENDENT = "judge_quality"
"""Folder of a model with a classifier of clean and degraded images that no embedding was trained on."""

CURVE_PROMPTS = 16
"""Prompts that every strength is tried on."""

BASE, PLAIN, RANDOM = "nothing", "plain words", "random vectors"
"""What an embedding is held against."""


@dataclass(frozen=True)
class Tried:
    """An embedding, and the variants of the experiment that speak of it.

    Attributes:
        own: With the embedding as it is learned.
        against: What it is held against, by what people call it; the first is the question.
        strengths: With the embedding at each weight, ascending.
    """

    embedding: Embedding
    own: Variant
    against: Mapping[str, Variant]
    strengths: Mapping[float, Variant]


class Trial:
    """One model, and embeddings that are tried on it.

    Attributes:
        bundle: The model.
        experiment: Base, words, random vectors, embeddings and their strengths, with every prompt and seed.
        tried: The embeddings.
        metrics: Names of those that are measured; the verdict is about the first.
        contents: Digests of what the images are made of.
        looks: The effect on the first metric after each block, by the embedding's name.
        used: Prompts that were drawn.
    """

    def __init__(
        self,
        bundle: Bundle,
        embeddings: Sequence[Embedding],
        side: Side,
        config: JudgeConfig,
        listener: Listener = Listener(),
    ):
        """Lays everything out and refuses what would fail later.

        Raises:
            InputError: what fails, in the words of whoever would have raised it.
        """
        self.bundle, self._config, self._listener = bundle, config, listener
        chance = {embedding.name: _random(embedding) for embedding in embeddings}
        base, words = rivals(embeddings, side, config)
        weights = _weights(config, listener)
        texts = {name: _at_weight(name, weights, side, config.dialect) for name in chance}
        everything = [base, *([words] if words else [])]
        for name, by_weight in texts.items():
            everything += [f"<{name}>", f"<{chance[name].name}>", *by_weight.values()]
        self.experiment = _experiment(
            bundle, config, side, list(dict.fromkeys(everything)), [*embeddings, *chance.values()]
        )
        variant = {one.labels["slot"]: one for one in self.experiment.variants}
        nothing = BASE if not base else f"the words “{base}”"
        self.tried = [
            Tried(
                embedding,
                variant[f"<{embedding.name}>"],
                {nothing: variant[base]}
                | ({PLAIN: variant[words]} if words else {})
                | {RANDOM: variant[f"<{chance[embedding.name].name}>"]},
                {weight: variant[text] for weight, text in texts[embedding.name].items()},
            )
            for embedding in embeddings
        ]
        self._tools = open_tools(bundle, _with_own_judge(bundle, config), listener)
        sizes, contents = check_cells(bundle, self.experiment)
        self.contents = contents | {"prompts": text_digest("\n".join(self.experiment.prompts))}
        available, _ = choose_scores(self.experiment, self._tools, sizes)
        self.metrics = _choose(available, side, bool(config.metrics), listener)
        self.looks: dict[str, list[Look]] = {one.embedding.name: [] for one in self.tried}
        self.used = 0
        self._scores = Scores({})

    def run(self, folder: Path, state: PartialState) -> dict[int, Path]:
        """Draws and scores until all is answered or the prompts are over, then the strengths.

        Returns:
            The files of the images, by the index of their cell.
        """
        experiment, cells = self.experiment, RunFolder(folder / "cells")
        scorer = Scorer(experiment, self.metrics, self._tools, state)
        asked = list({v.index: v for one in self.tried for v in (one.own, *one.against.values())}.values())

        def draw(prompts: range, variants: Sequence[Variant]) -> dict[int, Path]:
            wanted = [
                experiment.cell(variant, prompt, seed)
                for prompt in prompts
                for seed in range(len(experiment.seeds))
                for variant in variants
            ]
            files = make_cells(self.bundle, experiment, cells, state, self._listener, wanted)
            scorer.add(files, prompts, variants)
            self._scores = scorer.scores()
            return files

        total = len(experiment.prompts)
        for start in range(0, total, self._config.block):
            self.used = min(start + self._config.block, total)
            files = draw(range(start, self.used), asked)
            if self._looked(start == 0):
                break
        strengths = list({v.index: v for one in self.tried for v in one.strengths.values()}.values())
        if strengths:
            files = draw(range(min(CURVE_PROMPTS, self.used)), [*asked, *strengths])
        return files

    def differences(self, metric: str, variant: Variant, other: Variant, prompts: int) -> Array:
        """(prompts, seeds) differences of the first prompts; of a metric with one value a prompt (prompts, 1)."""
        return self._scores.differences(metric, variant.index, other.index)[:prompts]

    def question(self, one: Tried) -> Array:
        """The differences that the verdict is about: on the first metric, from what is named first."""
        return self.differences(self.metrics[0], one.own, next(iter(one.against.values())), self.used)

    def answers(self) -> dict[str, str]:
        """The verdicts as they stand, by the embeddings' names."""
        better = METRICS[self.metrics[0]].better
        return {name: looks[-1].answer(better, self._config.smallest) for name, looks in self.looks.items()}

    def _looked(self, first: bool) -> bool:
        """Takes a look, tells of it, and says whether all is answered."""
        for one in self.tried:
            self.looks[one.embedding.name].append(take_look(self.question(one)))
        if first:
            told = forecast(self.question(self.tried[0]), self._config.smallest, len(self.experiment.prompts))
            if told:
                self._listener.note(told)
        answers = self.answers()
        told = "; ".join(f"<{name}> {answer}" for name, answer in answers.items())
        self._listener.note(f"after {self.used} of {len(self.experiment.prompts)} prompts: {told}")
        return "undecided" not in answers.values()


def _with_own_judge(bundle: Bundle, config: JudgeConfig) -> JudgeConfig:
    """The config with the model's classifier that no recipe learns from, if it has one: an embedding that learned to
    please the other would please it again."""
    folder = bundle.root / INDEPENDENT
    there = config.quality is None and (folder / "config.json").is_file()
    return config.model_copy(update={"quality": folder}) if there else config


def rivals(embeddings: Sequence[Embedding], side: Side, config: JudgeConfig) -> tuple[str, str]:
    """What stands in the embedding's place in the baseline, and the plain words beside it or "".

    The baseline of a positive embedding is the words that it stands for: left out, its prompts would say nothing.

    Raises:
        InputError: nobody says what a positive embedding stands for.
    """
    if side == "negative":
        return "", WORDS if config.words is None else config.words
    initial = embeddings[0].provenance.metadata.get(INITIAL_TEXT, "")
    words = config.words if config.words is not None else initial
    if not words:
        raise InputError(
            f"words: the file of '{embeddings[0].name}' does not say what it stands for; give the words that it is "
            "held against with --words, such as --words cat"
        )
    return words, ""


def _random(embedding: Embedding) -> Embedding:
    """Random directions, as many and as long as the embedding's vectors; the same for the same file."""
    generator = torch.Generator().manual_seed(int(embedding.provenance.sha256[:8], 16))
    rows = {
        key: torch.nn.functional.normalize(torch.randn(vectors.shape, generator=generator), dim=1)
        * vectors.norm(dim=1, keepdim=True)
        for key, vectors in sorted(embedding.vectors.items())
    }
    return Embedding(f"{embedding.name}-random", rows, kind=embedding.kind)


def _weights(config: JudgeConfig, listener: Listener) -> list[float]:
    if find_dialect(config.dialect).emphasis is None and config.weights:
        listener.note(f"No strengths: the {config.dialect} dialect has no weights.")
        return []
    return read_weights(config.weights)


def _at_weight(name: str, weights: Sequence[float], side: Side, dialect: str) -> dict[float, str]:
    """How the embedding is written at each weight; a negative one of weight 0 is left out."""
    return {
        weight: "" if side == "negative" and weight == 0 else written_name(name, weight, dialect)
        for weight in weights
    }


def _experiment(
    bundle: Bundle, config: JudgeConfig, side: Side, texts: list[str], embeddings: Sequence[Embedding]
) -> Experiment:
    """The experiment over what takes the embedding's place."""
    prompts = choose_prompts(config, side, embeddings[0].kind == "style", bundle.root == ASSETS / "emoji")
    shared = {name: value for name, value in config.given().items() if name in CompareConfig.model_fields}
    own = {"model": bundle.source, "out": None, "prompts": prompts, "seeds": config.seeds}
    negative = {"negative_prompt": SLOT} if side == "negative" else {}
    settings = CompareConfig.build({**shared, **own, **negative, "axes": {"slot": texts}})
    return Experiment(settings, embeddings)


def _choose(available: Sequence[str], side: Side, asked: bool, listener: Listener) -> list[str]:
    """The metrics that can tell, the one that the verdict is about first."""
    usable = [name for name in available if not METRICS[name].paired and METRICS[name].over != "variant"]
    if not usable:
        raise InputError("metrics: none of these says of a prompt's images how they are; take another")
    if asked:
        return usable
    telling = [name for name in usable if METRICS[name].better]
    if not telling:
        listener.note("Nothing here says which image is better: give a CLIPModel folder with --clip.")
    first = [name for name in FIRST[side] if name in telling]
    return list(dict.fromkeys([*first, *(telling or usable)]))

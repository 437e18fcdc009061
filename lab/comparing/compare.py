"""`lab.compare`: what variants change, how much, and how sure that is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from lab.comparing.cells import check_cells, make_cells
from lab.comparing.config import CompareConfig
from lab.comparing.effects import (
    EFFECT_COLUMNS,
    EffectSentence,
    caveats,
    effect_sentences,
    find_effects,
    number,
)
from lab.comparing.experiment import Experiment
from lab.comparing.knock_outs import knock_out_panels, with_parts
from lab.comparing.panels import check_panels, make_panels
from lab.comparing.report import write_report
from lab.comparing.scores import choose_scores, image_rows, score_cells, write_table
from lab.embeddings.library import Sources
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.models.config import check_for_loaded
from lab.runs.pages import template, write_index
from lab.runs.run import RunFolder, run_digest
from lab.sample.record import BY_CONTENT
from lab.score.config import ScoreOptions
from lab.score.tools import open_tools


@dataclass(frozen=True)
class ComparisonReport:
    """What a comparison found. In a notebook it shows its answers and its effects.

    Attributes:
        folder: Holds config.yaml, results.csv, effects.csv, cells/ and report.html.
        effects: The rows of effects.csv: variant, metric, difference, low, high, p, win_rate, n.
        sentences: Them in words.
    """

    folder: Path
    effects: list[dict[str, Any]]
    sentences: list[EffectSentence]

    @property
    def answers(self) -> list[str]:
        """The effects in a sentence each."""
        return [sentence.text for sentence in self.sentences]

    @property
    def page(self) -> Path:
        """The report, to be opened in a browser."""
        return self.folder / "report.html"

    def _repr_html_(self) -> str:
        page = self.page.resolve().as_uri()
        known = {"sentences": self.sentences, "effects": self.effects, "page": page, "number": number}
        return template("lab.comparing", "summary.html").render(known)


def compare(
    bundle: Bundle,
    config: CompareConfig | None = None,
    *,
    embeddings: Sources = (),
    listener: Listener = Listener(),
    **settings: Any,
) -> ComparisonReport:
    """Makes every variant with every prompt and seed, measures what differs, and writes a report.

    The same call again goes on where it was interrupted. Under torchrun or `accelerate launch`, each process makes
    its share of the images; they all need the same `out` folder, and the first one writes tables and report.

    Images stream to disk and are read back in batches; what stays in memory of each is its place in the experiment,
    its scores and its CLIP features. 10,000 images stay within 1 GB beside the model: `scripts/bench_compare.py
    --memory 10000` measures it.

    Args:
        config: What to compare; its model options say how the models of a `model` axis are loaded.
        embeddings: What prompts and axes may name: `Embedding` values, files, folders.
        listener: Hears of images made and scored, and what a person should know.
        settings: Fields of `lab.CompareConfig`, on top of `config`.

    Raises:
        InputError: unknown or bad settings; axes that are unknown, clash or vary nothing; a metric without what it
            needs; a folder of another run. Nothing is generated then.
    """
    check_for_loaded(bundle)
    config = CompareConfig.build(CompareConfig.given_with(config, settings))
    config = with_parts(bundle, config, embeddings)
    experiment = Experiment(config, embeddings)
    tools = open_tools(bundle, config, listener)
    sizes, contents = check_cells(bundle, experiment)
    metrics, left_out = choose_scores(experiment, tools, sizes)
    check_panels(bundle, experiment)
    for caveat in caveats(experiment):
        listener.note(caveat)
    state = PartialState(cpu=bundle.device.type == "cpu")
    out, stored, free = _run(bundle, config, contents)
    with RunFolder.shared(out, stored, contents, free, state):
        files = make_cells(bundle, experiment, RunFolder(out / "cells"), state, listener)
        scores = score_cells(experiment, files, metrics, tools, state, listener)
        effects = find_effects(experiment, scores)
        rows = [effect.row() for effect in effects]
        if state.is_main_process:
            write_table(out / "results.csv", lambda: image_rows(experiment, scores, files))
            write_table(out / "effects.csv", lambda: rows, EFFECT_COLUMNS)
            panels = [
                *knock_out_panels(bundle, experiment, scores, files, listener),
                *make_panels(bundle, experiment, out),
            ]
            write_report(out, experiment, scores, effects, files, left_out, panels)
            pictures = {cell.index: files[cell.index] for cell in experiment.pictures}
            variants = {cell.index: cell.variant.name for cell in experiment.pictures}
            write_index(RunFolder(out), pictures, "compare", variants, REPORT)
    return ComparisonReport(out, rows, effect_sentences(effects))


REPORT = "report.html", "The report: what differs, and how sure that is"

JUDGING = frozenset(
    {*ScoreOptions.model_fields, "baseline", "contrast", "heat_map", "heat_layers", "guidance_curve"}
)
"""The options that say what is looked at in the images: a run goes on with others."""


def _run(
    bundle: Bundle, config: CompareConfig, contents: Mapping[str, str]
) -> tuple[Path, str, frozenset[str]]:
    """The run's folder, its config as that is kept there, and what may differ in it: see `RunFolder.open`."""
    kept = {"out": None, "batch_size": "auto", "dtype": bundle.precision}
    stored = config.model_copy(update=kept).to_yaml()
    free = JUDGING | BY_CONTENT
    out = config.out or Path("outputs", f"compare-{run_digest(stored, contents, free)[:8]}")
    return out, stored, free

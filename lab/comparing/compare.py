"""`lab.compare`: what variants change, how much, and how sure that is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from lab.comparing.cells import by_model, check_cells, make_cells
from lab.comparing.config import CompareConfig
from lab.comparing.experiment import Experiment
from lab.comparing.panels import check_panels, make_panels
from lab.comparing.report import write_report
from lab.comparing.scores import EFFECT_COLUMNS, choose, find_effects, image_rows, score_cells, write_table
from lab.comparing.sentences import Answer, answers, caveats
from lab.embeddings.library import Sources
from lab.models.bundle import Bundle
from lab.runs.run import RunFolder, run_digest
from lab.sample.engine import Note, Progress
from lab.sample.record import model_contents
from lab.score.config import ScoreOptions
from lab.score.tools import open_tools


@dataclass(frozen=True)
class Report:
    """What a comparison found.

    Attributes:
        folder: Holds config.yaml, results.csv, effects.csv, cells/ and report.html.
        effects: The rows of effects.csv: variant, metric, difference, low, high, p, win_rate, n.
        sentences: Them in words.
    """

    folder: Path
    effects: list[dict[str, Any]]
    sentences: list[Answer]

    @property
    def answers(self) -> list[str]:
        """The effects in a sentence each."""
        return [sentence.text for sentence in self.sentences]

    @property
    def page(self) -> Path:
        """The report, to be opened in a browser."""
        return self.folder / "report.html"


def compare(
    bundle: Bundle,
    config: CompareConfig,
    *,
    embeddings: Sources = (),
    on_progress: Progress | None = None,
    on_note: Note | None = None,
) -> Report:
    """Makes every variant with every prompt and seed, measures what differs, and writes a report.

    The same config again goes on where it was interrupted. Under torchrun or `accelerate launch`, each process makes
    its share of the images; they all need the same `out` folder, and the first one writes tables and report.

    Images stream to disk and are read back in batches; what stays in memory of each is its place in the experiment,
    its scores and its CLIP features. 10,000 images stay within 1 GB beside the model: `scripts/bench_compare.py
    --memory 10000` measures it.

    Args:
        embeddings: What prompts and axes may name: `Embedding` values, files, folders.
        on_progress: Hears of images made.
        on_note: Hears what a person should know, a line at a time.

    Raises:
        InputError: axes that are unknown, clash or vary nothing; a metric without what it needs; a folder of
            another run. Nothing is generated then.
    """
    note = on_note or (lambda line: None)
    experiment = Experiment(config, embeddings)
    tools = open_tools(bundle, config)
    sizes: dict[int, tuple[int, int]] = {}
    for model, cells in by_model(bundle, experiment, experiment.cells):
        sizes |= check_cells(model, cells)
    metrics, left_out = choose(experiment, tools, sizes)
    check_panels(bundle, experiment)
    for caveat in caveats(experiment):
        note(caveat)
    state = PartialState(cpu=bundle.device.type == "cpu")
    out = _open(bundle, experiment, state)
    folder = RunFolder(out / "cells")
    finished = len(folder.finished())
    if finished:
        note(f"{out}: {finished} images are there already; going on with the rest.")
    make_cells(bundle, experiment, folder, state, on_progress, on_note)
    state.wait_for_everyone()
    files = folder.finished()
    scores = score_cells(experiment, files, metrics, tools, state)
    effects = find_effects(experiment, scores)
    if state.is_main_process:
        write_table(out / "results.csv", lambda: image_rows(experiment, scores, files))
        write_table(out / "effects.csv", lambda: effects, EFFECT_COLUMNS)
        panels = make_panels(bundle, experiment, out)
        write_report(out, experiment, scores, effects, files, left_out, panels)
    state.wait_for_everyone()
    return Report(out, effects, answers(experiment, effects))


def _open(bundle: Bundle, experiment: Experiment, state: PartialState) -> Path:
    """Begins the run's folder or goes on in it; metrics may differ from those of the run that it holds."""
    config = experiment.config.model_copy(update={"out": None, "batch_size": "auto"}).to_yaml()
    contents = model_contents(bundle)
    digests: dict[str, set[str]] = {}
    for cell in experiment.pictures:
        for each in cell.used:
            digests.setdefault(f"embedding {each.name}", set()).add(each.provenance.sha256)
    contents |= {name: "+".join(sorted(some)) for name, some in digests.items()}
    out = experiment.config.out or Path("outputs", f"compare-{run_digest(config, contents)[:8]}")
    judging = {*ScoreOptions.model_fields, "heat_map", "heat_layers", "guidance_curve"}
    if state.is_main_process:
        RunFolder.open(out, config, contents, judging)
    state.wait_for_everyone()
    return out

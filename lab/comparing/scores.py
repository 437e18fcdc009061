"""The images of a comparison scored by every metric, and the table that has a row for each."""

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor

from lab.comparing.experiment import Cell, Experiment, Variant
from lab.errors import InputError
from lab.files import atomic
from lab.images import read_pixels
from lab.listening import Listener
from lab.runs.png import record_beside
from lab.runs.run import made_again
from lab.score.metrics import METRICS, choose_metrics
from lab.score.tools import Batch, Tools

Size = tuple[int, int]


def choose_scores(
    experiment: Experiment, tools: Tools, sizes: Mapping[int, Size]
) -> tuple[list[str], Mapping[str, str]]:
    """The metrics to compute, and for the others why they are not.

    Args:
        sizes: Width and height of the images, by the index of their variant.

    Raises:
        InputError: an unknown metric, or one that was asked for and cannot run here, with the reason.
    """
    metrics, reasons = choose_metrics(experiment.config.metrics, tools)
    if len(experiment.seeds) < 2:
        why = "it compares the images of several seeds, and there is one seed; give more --seeds"
        reasons |= {name: why for name in metrics if METRICS[name].over == "prompt"}
    base = sizes[experiment.baseline.index]
    other = next((size for size in sizes.values() if size != base), None)
    if other and "ssim_baseline" in metrics:
        there, here = (f"{width}x{height}" for width, height in (other, base))
        reasons["ssim_baseline"] = (
            f"it compares pixels one by one, and there are images of {there} beside the baseline's of {here}"
        )
    for name in experiment.config.metrics:
        if name in reasons:
            raise InputError(f"metrics: '{name}' cannot run here: {reasons[name]}")
    return [name for name in metrics if name not in reasons], reasons


BATCH = 16
"""Images scored together."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """The values of every metric.

    Attributes:
        values: (variants, prompts, seeds) by metric; a value that speaks of several images stands at each of them.
    """

    values: Mapping[str, Array]

    def differences(self, metric: str, variant: int, baseline: int) -> Array:
        """Of a variant from the baseline (by their indices), as `statistics.measure` takes them: (prompts, seeds),
        of a metric with one value a prompt (prompts, 1), with one value a variant (1, 1)."""
        table = self.values[metric]
        differences = table[variant] - table[baseline]
        over = METRICS[metric].over
        if over == "prompt":
            return differences[:, :1]
        return differences[:1, :1] if over == "variant" else differences


class CellScores(NamedTuple):
    """The scores of one image.

    Attributes:
        values: Of the metrics that speak of single images, by name.
        features: (p,) float32 CLIP features, or None where no metric needs them.
    """

    values: dict[str, float]
    features: NDArray[np.float32] | None


def score_cells(
    experiment: Experiment,
    files: Mapping[int, Path],
    metrics: Sequence[str],
    tools: Tools,
    state: PartialState,
    listener: Listener = Listener(),
) -> Scores:
    """Scores every cell, each process its share of the pairs; all processes get all values.

    Args:
        files: The images, by the index of their cell.
        metrics: Names of those to compute.
        listener: Hears of pairs scored.
    """
    scorer = Scorer(experiment, metrics, tools, state)
    scorer.add(files, range(len(experiment.prompts)), experiment.variants, listener)
    return scorer.scores()


class Scorer:
    """Scores pairs prompt by prompt, and keeps numbers alone."""

    def __init__(self, experiment: Experiment, metrics: Sequence[str], tools: Tools, state: PartialState):
        self._experiment = experiment
        self._tools = tools
        self._state = state
        self._names = metrics
        self._metrics = [name for name in metrics if METRICS[name].over == "image"]
        self._needs_features = any("clip" in METRICS[name].needs for name in metrics)
        self._scored: dict[int, CellScores] = {}

    @torch.no_grad()
    def add(
        self,
        files: Mapping[int, Path],
        prompts: Sequence[int],
        variants: Sequence[Variant],
        listener: Listener = Listener(),
    ) -> None:
        """Scores the pairs of some prompts, each process its share; the baseline's images come with them.

        Args:
            files: The images, by the index of their cell.
            listener: Hears of pairs scored.
        """
        pairs = [(prompt, seed) for prompt in prompts for seed in range(len(self._experiment.seeds))]
        found: dict[int, CellScores] = {}
        with self._state.split_between_processes(pairs) as mine:
            for start in range(0, len(mine), BATCH):
                found |= self._score(files, mine[start : start + BATCH], variants)
                listener.progress(min(start + BATCH, len(mine)), len(mine), "pairs scored")
        for part in gather_object([found]) if self._state.num_processes > 1 else [found]:
            self._scored |= part

    def scores(self) -> Scores:
        """Everything that was scored; the rest is NaN."""
        return _as_tables(self._experiment, self._scored, self._names, self._tools)

    def _score(
        self, files: Mapping[int, Path], pairs: Sequence[tuple[int, int]], variants: Sequence[Variant]
    ) -> dict[int, CellScores]:
        baseline = self._experiment.baseline
        found: dict[int, CellScores] = {}
        base: Batch | None = None
        for variant in [baseline, *(variant for variant in variants if variant is not baseline)]:
            cells = [self._experiment.cell(variant, *pair) for pair in pairs]
            batch, scored = self._score_batch(files, cells, base)
            base = base or batch
            found |= scored
        return found

    def _score_batch(
        self, files: Mapping[int, Path], cells: Sequence[Cell], base: Batch | None
    ) -> tuple[Batch, dict[int, CellScores]]:
        pixels = torch.stack([_pixels_as_recorded(files[cell.picture]) for cell in cells])
        texts = [cell.words for cell in cells]
        batch = Batch(self._tools, pixels, texts, pixels if base is None else base.pixels)
        if self._needs_features:
            batch.baseline_features = batch.features if base is None else base.features
        columns = {name: METRICS[name].compute(batch).double().tolist() for name in self._metrics}
        features = batch.features.cpu().numpy() if self._needs_features else [None] * len(cells)
        values = [{name: column[place] for name, column in columns.items()} for place in range(len(cells))]
        rows = zip(cells, values, features, strict=True)
        return batch, {cell.index: CellScores(own, row) for cell, own, row in rows}


def _pixels_as_recorded(file: Path) -> Tensor:
    record = record_beside(file)
    with made_again(file):
        pixels = read_pixels(file)
        if pixels.shape[1:] != (record["height"], record["width"]):
            size = (
                f"{pixels.shape[2]} x {pixels.shape[1]} pixels, where {record['width']} x {record['height']}"
            )
            raise InputError(f"{file}: {size} were made")
    return pixels


def _as_tables(
    experiment: Experiment, scored: Mapping[int, CellScores], metrics: Sequence[str], tools: Tools
) -> Scores:
    """The scores in the experiment's order, with the metrics that speak of several images computed."""
    shape = (len(experiment.variants), len(experiment.prompts), len(experiment.seeds))
    tables = {name: np.full(shape, np.nan) for name in metrics}
    features: NDArray[np.object_] = np.empty(shape, dtype=object)
    for index, (values, row) in scored.items():
        cell = experiment.cells[index]
        place = (cell.variant.index, *cell.pair)
        features[place] = row
        for name, value in values.items():
            tables[name][place] = value
    prompts = range(shape[1])
    groups = {"variant": [slice(None)], "prompt": [slice(p, p + 1) for p in prompts], "image": []}
    for name in metrics:
        metric = METRICS[name]
        for variant in range(shape[0]):
            for group in groups[metric.over]:
                rows = list(features[variant, group].ravel())
                if all(row is not None for row in rows):
                    batch = _batch_of_features(tools, torch.from_numpy(np.stack(rows)))
                    tables[name][variant, group] = float(metric.compute(batch))
    return Scores(tables)


def _batch_of_features(tools: Tools, features: Tensor) -> Batch:
    """A batch of which only the features are known."""
    device = tools.references.device if tools.references is not None else features.device
    return Batch(tools, torch.empty(0), features=features.to(device))


DIGITS = 6
"""Significant digits in the tables."""


def image_rows(experiment: Experiment, scores: Scores, files: Mapping[int, Path]) -> Iterable[dict[str, Any]]:
    """One row an image: where it stands in the experiment, every setting that made it, every metric."""
    for cell in experiment.cells:
        file = files[cell.picture]
        record = record_beside(file)
        place = (cell.variant.index, *cell.pair)
        yield {
            "variant": cell.variant.name,
            "baseline": cell.variant is experiment.baseline,
            "prompt": cell.prompt,
            "seed": cell.seed,
            "file": f"{file.parent.name}/{file.name}",
            **{f"axis_{name}": label for name, label in cell.variant.labels.items()},
            **{key: _flat(value) for key, value in record.items() if key not in ("prompt", "seed")},
            **{name: float(table[place]) for name, table in scores.values.items()},
        }


def write_table(
    path: Path, rows: Callable[[], Iterable[dict[str, Any]]], columns: Sequence[str] = ()
) -> None:
    """Writes a CSV file row by row.

    Args:
        rows: Makes the rows; called twice where no columns are given, so that none has to stay in memory.
        columns: By default those of all rows in the order of their first appearance.

    Raises:
        InputError: the folder cannot be written.
    """
    columns = columns or list(dict.fromkeys(key for row in rows() for key in row))
    with (
        atomic(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows({key: _written(value) for key, value in row.items()} for row in rows())


def _written(value: Any) -> Any:
    """A value as the file has it; nothing for what is not known."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else value


def _flat(value: Any) -> Any:
    """A value of a record as one cell of a table."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value

"""From scores to the two tables: one row an image, and one row a variant and metric."""

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor

from lab.comparing.experiment import Cell, Experiment
from lab.comparing.statistics import holm, measure
from lab.errors import InputError
from lab.files import atomic
from lab.images import read_pixels
from lab.score.batch import Batch
from lab.score.metrics import METRICS, choose_metrics
from lab.score.tools import Tools

Size = tuple[int, int]


def choose(
    experiment: Experiment, tools: Tools, sizes: Mapping[int, Size]
) -> tuple[list[str], Mapping[str, str]]:
    """The metrics to compute, and for the others why they are not.

    Args:
        sizes: Width and height of the images, by the index of their variant.

    Raises:
        InputError: an unknown metric, or one that was asked for and cannot run here, with the reason.
    """
    metrics, reasons = choose_metrics(experiment.config.metrics, tools)
    reasons = dict(reasons)
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
        """Of a variant from the baseline, as `statistics.measure` takes them."""
        table = self.values[metric]
        found = table[variant] - table[baseline]
        over = METRICS[metric].over
        if over == "prompt":
            return found[:, 0][None]
        return found[:1, :1] if over == "variant" else found


@torch.no_grad()
def score_cells(
    experiment: Experiment,
    files: Mapping[int, Path],
    metrics: Sequence[str],
    tools: Tools,
    state: PartialState,
    on_progress: Callable[[float, int], None] | None = None,
) -> Scores:
    """Scores every cell, each process its share of the pairs; all processes get all values."""
    scorer = _Scorer(experiment, files, metrics, tools)
    pairs = [
        (prompt, seed) for prompt in range(len(experiment.prompts)) for seed in range(len(experiment.seeds))
    ]
    mine = pairs[state.process_index :: state.num_processes]
    for start in range(0, len(mine), BATCH):
        scorer.score(mine[start : start + BATCH])
        if on_progress:
            on_progress(min(start + BATCH, len(mine)), len(mine))
    gathered = gather_object([scorer.found]) if state.num_processes > 1 else [scorer.found]
    return _tables(experiment, {k: v for part in gathered for k, v in part.items()}, metrics, tools)


class _Scorer:
    """Scores pairs of all variants, and keeps numbers alone.

    Attributes:
        found: By cell, the values of the metrics that speak of single images and the CLIP features (float32).
    """

    def __init__(
        self, experiment: Experiment, files: Mapping[int, Path], metrics: Sequence[str], tools: Tools
    ):
        self._experiment = experiment
        self._files = files
        self._tools = tools
        self._metrics = [name for name in metrics if METRICS[name].over == "image"]
        self._featured = any("clip" in METRICS[name].needs for name in metrics)
        self.found: dict[int, tuple[dict[str, float], NDArray[np.float32] | None]] = {}

    def score(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Scores some pairs, the baseline's images first."""
        experiment = self._experiment
        base = self._batch([experiment.cell(experiment.baseline, *pair) for pair in pairs], None)
        for variant in experiment.variants:
            if variant is not experiment.baseline:
                self._batch([experiment.cell(variant, *pair) for pair in pairs], base)

    def _batch(self, cells: Sequence[Cell], base: Batch | None) -> Batch:
        pixels = torch.stack([read_pixels(self._files[cell.picture]) for cell in cells])
        texts = [cell.text for cell in cells]
        batch = Batch(self._tools, pixels, texts, pixels if base is None else base.pixels)
        if self._featured:
            batch.baseline_features = batch.features if base is None else base.features
        values = {name: METRICS[name].compute(batch).double().cpu() for name in self._metrics}
        features = batch.features.cpu().numpy() if self._featured else [None] * len(cells)
        for place, (cell, row) in enumerate(zip(cells, features, strict=True)):
            self.found[cell.index] = ({name: float(each[place]) for name, each in values.items()}, row)
        return batch


def _tables(
    experiment: Experiment,
    found: Mapping[int, tuple[dict[str, float], NDArray[np.float32] | None]],
    metrics: Sequence[str],
    tools: Tools,
) -> Scores:
    shape = (len(experiment.variants), len(experiment.prompts), len(experiment.seeds))
    tables = {name: np.full(shape, np.nan) for name in metrics}
    features: NDArray[np.object_] = np.empty(shape, dtype=object)
    for cell in experiment.cells:
        place = (cell.variant.index, *cell.pair)
        values, features[place] = found[cell.index]
        for name, value in values.items():
            tables[name][place] = value
    for name in metrics:
        over, compute = METRICS[name].over, METRICS[name].compute
        for variant in range(shape[0]) if over != "image" else ():
            for rows in [slice(None)] if over == "variant" else [slice(p, p + 1) for p in range(shape[1])]:
                stacked = np.stack(list(features[variant, rows].ravel()))
                tables[name][variant, rows] = float(compute(_featured(tools, torch.from_numpy(stacked))))
    return Scores(tables)


def _featured(tools: Tools, features: Tensor) -> Batch:
    """A batch of which only the features are known."""
    device = tools.references.device if tools.references is not None else features.device
    return Batch(tools, torch.empty(0), features=features.to(device))


EFFECT_COLUMNS = ("variant", "metric", "difference", "low", "high", "p", "win_rate", "n")
DIGITS = 6
"""Significant digits in the tables."""

Row = dict[str, Any]


def find_effects(experiment: Experiment, scores: Scores) -> list[Row]:
    """One row a variant and metric, the columns of effects.csv; what the data cannot give is None.

    p is corrected for all rows of the table (Holm). Metrics that compare with the baseline's image differ from the
    baseline's own, fixed value by as much as the images do, which is no hypothesis: they have neither p nor a win
    rate. A metric with one value for all images of a variant has a difference alone.
    """
    rows: list[Row] = []
    for variant in experiment.variants:
        for name in scores.values:
            differences = scores.differences(name, variant.index, experiment.baseline.index)
            if variant is experiment.baseline or np.isnan(differences).any():
                continue
            metric, effect = METRICS[name], measure(differences)
            wins = 1 - effect.win_rate if metric.better < 0 else effect.win_rate
            single = metric.over == "variant"
            rows.append(
                {
                    "variant": variant.name,
                    "metric": name,
                    "difference": effect.difference,
                    "low": effect.low,
                    "high": effect.high,
                    "p": None if metric.paired else effect.p,
                    "win_rate": None if metric.paired or single else wins,
                    "n": experiment.pairs if single else effect.n,
                }
            )
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p"] = p
    return rows


def image_rows(experiment: Experiment, scores: Scores, files: Mapping[int, Path]) -> Iterable[Row]:
    """One row an image: where it stands in the experiment, every setting that made it, every metric."""
    for cell in experiment.cells:
        file = files[cell.picture]
        record = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
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


def write_table(path: Path, rows: Callable[[], Iterable[Row]], columns: Sequence[str] = ()) -> None:
    """Writes a CSV file row by row.

    Args:
        rows: Makes the rows; called twice where no columns are given, so that none has to stay in memory.
        columns: By default those of all rows in the order of their first appearance.

    Raises:
        InputError: the folder cannot be written.
    """
    columns = columns or list(dict.fromkeys(key for row in rows() for key in row))
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows())


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else value


def _flat(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value

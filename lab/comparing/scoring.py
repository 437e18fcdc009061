"""Scores the images of a run: read back from disk in batches, so that memory does not grow with the run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor

from lab.comparing.experiment import Cell, Experiment
from lab.score.metrics import METRICS, Batch
from lab.score.pixels import read_pixels
from lab.score.tools import Tools

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

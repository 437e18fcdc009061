"""From scores to the two tables: one row an image, and one row a variant and metric."""

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lab.comparing.experiment import Experiment
from lab.comparing.scoring import Scores
from lab.comparing.statistics import holm, measure
from lab.files import atomic
from lab.score.metrics import METRICS

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

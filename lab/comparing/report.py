"""The report: one page that opens from disk, with everything in it; more pages where the images are many."""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from lab.comparing.experiment import Cell, Experiment
from lab.comparing.pages import Pictures, image_uri, paged, rows_of
from lab.comparing.panels import Panel
from lab.comparing.plots import effect_plot
from lab.comparing.scoring import Scores
from lab.comparing.sentences import answers, caveats, number, question
from lab.files import atomic
from lab.runs.pages import template
from lab.score.metrics import METRICS

PAIRS_SHOWN = 3
"""Pairs with the largest change that are shown of each metric, in each direction."""

SENTENCES = 4
"""Variants up to which every one gets its sentence; of more, the clear effects that are largest."""

_HIDDEN = {"versions", "applied", "model_hash", "prompt_file", "embedding", "embeddings"}


def write_report(
    folder: Path,
    experiment: Experiment,
    scores: Scores,
    effects: Sequence[dict[str, Any]],
    files: Mapping[int, Path],
    left_out: Mapping[str, str],
    panels: Sequence[Panel] = (),
) -> None:
    """Writes report.html, and report-2.html and so on if the images do not fit in one page.

    Args:
        left_out: Metrics that were not measured, and why.
        panels: What else to show.

    Raises:
        InputError: the folder cannot be written.
    """
    largest = {
        METRICS[name]: _largest(experiment, scores, name)
        for name in scores.values
        if METRICS[name].over == "image"
    }
    shown = [cell for pairs in largest.values() for cell, _ in pairs]
    shown += [experiment.counterpart(cell) for cell in shown]
    pages = paged(experiment, files, shown)
    everywhere = {
        **{"experiment": experiment, "question": question(experiment), "caveats": caveats(experiment)},
        **{
            "effects": effects,
            "left_out": left_out,
            "config": _given(experiment),
            "made": _made(files.values()),
        },
        **{"number": number, "rows_of": rows_of, "data_uri": image_uri},
        "names": [_name(page) for page in range(1, len(pages) + 1)],
    }
    on_the_first = {
        "groups": _groups(experiment, effects),
        "largest": largest,
        "panels": [_panel(panel) for panel in panels],
    }
    page_template = template("lab.comparing", "report.html")
    for page, pairs in enumerate(pages, start=1):
        cells = [experiment.cell(variant, *pair) for pair in pairs for variant in experiment.variants]
        data = _data(experiment, scores, files, cells + (shown if page == 1 else []))
        html = page_template.render(
            everywhere,
            **(on_the_first if page == 1 else dict.fromkeys(on_the_first, ())),
            **{"page": page, "pairs": pairs, "pictures": Pictures(files), "data": data},
        )
        with atomic(folder / _name(page)) as temporary:
            temporary.write_text(html, encoding="utf-8")
    for page in itertools.count(len(pages) + 1):  # of a report that had more
        if not (folder / _name(page)).exists():
            break
        (folder / _name(page)).unlink()


def _name(page: int) -> str:
    return "report.html" if page == 1 else f"report-{page}.html"


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))


def _groups(experiment: Experiment, effects: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each metric its sentences and its plot."""
    said = answers(experiment, effects)
    groups = []
    for name in dict.fromkeys(row["metric"] for row in effects):
        rows = [(row, answer) for row, answer in zip(effects, said, strict=True) if row["metric"] == name]
        told = rows
        if len(rows) > SENTENCES:
            ranked = sorted(rows, key=lambda each: (not each[1].clear, -abs(each[0]["difference"])))
            told = [each for each in rows if each in ranked[:SENTENCES]]
        groups.append(
            {
                "name": name,
                "metric": METRICS[name],
                "answers": [answer for _, answer in told],
                "hidden": len(rows) - len(told),
                "plot": Markup(effect_plot(name, [row for row, _ in rows])),  # our own SVG
            }
        )
    return groups


def _largest(experiment: Experiment, scores: Scores, name: str) -> list[tuple[Cell, float]]:
    """The pairs that a metric says have changed most, the largest first, upwards and downwards in turn."""
    table, base = scores.values[name], scores.values[name][experiment.baseline.index]
    pairs = [
        (cell, float(table[cell.variant.index][cell.pair] - base[cell.pair]))
        for cell in experiment.cells
        if cell.variant is not experiment.baseline and cell.picture != experiment.counterpart(cell).picture
    ]
    up = sorted((pair for pair in pairs if pair[1] > 0), key=lambda pair: -pair[1])
    down = sorted((pair for pair in pairs if pair[1] < 0), key=lambda pair: pair[1])
    chosen = up[:PAIRS_SHOWN] + down[:PAIRS_SHOWN]
    return sorted(chosen, key=lambda pair: -abs(pair[1]))


def _panel(panel: Panel) -> dict[str, Any]:
    pictures = [
        asdict(picture) | {"svg": Markup(picture.data) if isinstance(picture.data, str) else None}
        for picture in panel.pictures
    ]
    return {"title": panel.title, "text": panel.text, "pictures": pictures}


def _data(experiment: Experiment, scores: Scores, files: Mapping[int, Path], cells: Sequence[Cell]) -> Markup:
    """What the page's script knows of its cells, as JSON that cannot end the script element."""
    found = {}
    for cell in cells:
        record = _read(files[cell.picture])
        settings = {key: value for key, value in record.items() if key not in _HIDDEN and value is not None}
        uses = [f"<{use['name']}> ({use['side']}, weight {use['weight']:g})" for use in record["applied"]]
        place = (cell.variant.index, *cell.pair)
        found[cell.index] = {
            "variant": cell.variant.name,
            "base": experiment.counterpart(cell).index,
            "picture": cell.picture,
            "settings": settings | ({"embeddings": ", ".join(uses)} if uses else {}),
            "scores": {
                METRICS[name].label: number(float(table[place]), signed=False)
                for name, table in scores.values.items()
            },
        }
    return Markup(json.dumps(found, ensure_ascii=False).replace("<", "\\u003c"))


def _given(experiment: Experiment) -> str:
    """The settings that somebody chose, as YAML; config.yaml has the defaults as well."""
    chosen = experiment.config.model_fields_set - {"out"}
    settings = experiment.config.model_dump(mode="json", include=chosen)
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def _made(files: Iterable[Path]) -> list[tuple[str, str]]:
    """What made the images: models, embeddings and versions with their hashes."""
    facts: dict[tuple[str, str], None] = {}
    for record in map(_read, files):
        used = [("embedding", f"<{use['name']}>, SHA-256 {use['sha256']}") for use in record["applied"]]
        model = "model", f"{record['model']}, SHA-256 {record['model_hash']}"
        device = "computed on", f"{record['device']}, {record['dtype']}"
        facts |= dict.fromkeys([model, *used, device, *record["versions"].items()])
    first = ("model", "embedding", "computed on")
    return sorted(facts, key=lambda fact: first.index(fact[0]) if fact[0] in first else len(first))

"""The report: one page that opens from disk, with everything in it; more pages where the images are many."""

import base64
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from lab.comparing.effects import (
    VariantEffect,
    caveats,
    effect_plot,
    effect_sentences,
    number,
    question,
)
from lab.comparing.experiment import Cell, Experiment
from lab.comparing.panels import ReportPanel
from lab.comparing.scores import Scores
from lab.files import atomic
from lab.runs.pages import template
from lab.runs.png import record_beside
from lab.score.metrics import METRICS

PAGE_BYTES = 24 * 2**20
"""Bytes of images in a page, up to which it gets more rows."""

CellPair = tuple[int, int]


class PagePictures:
    """The images of a page, by their index; each is written into it once."""

    def __init__(self, files: Mapping[int, Path]):
        self._files = files
        self._written: set[int] = set()

    def source(self, index: int) -> Markup:
        """The attributes of an `img`: the image itself, or from the second time on where the page has it."""
        if index in self._written:
            return Markup('data-same="{}"').format(index)
        self._written.add(index)
        return Markup('id="picture-{}" src="{}"').format(index, image_uri(self._files[index].read_bytes()))


def image_uri(data: bytes) -> str:
    """A PNG image as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def divided_pairs(
    experiment: Experiment, files: Mapping[int, Path], shown: Iterable[Cell] = ()
) -> list[list[CellPair]]:
    """Divides the pairs, in order, over pages of at most `PAGE_BYTES` of images (but at least one pair each).

    Args:
        shown: Cells that the first page shows beside its rows.
    """
    pages: list[list[CellPair]] = [[]]
    held = {cell.picture for cell in shown}
    room = PAGE_BYTES - _size(files, held)
    for prompt in range(len(experiment.prompts)):
        for seed in range(len(experiment.seeds)):
            cells = {experiment.cell(variant, prompt, seed).picture for variant in experiment.variants}
            if pages[-1] and _size(files, cells - held) > room:
                pages.append([])
                held, room = set(), PAGE_BYTES
            room -= _size(files, cells - held)
            held |= cells
            pages[-1].append((prompt, seed))
    return pages


def _size(files: Mapping[int, Path], pictures: Iterable[int]) -> int:
    return sum(files[index].stat().st_size * 4 // 3 for index in pictures)


def pairs_by_prompt(pairs: Sequence[CellPair]) -> list[tuple[int, list[int]]]:
    """Pairs by prompt: (prompt, its seeds) in order."""
    rows: dict[int, list[int]] = {}
    for prompt, seed in pairs:
        rows.setdefault(prompt, []).append(seed)
    return list(rows.items())


PAIRS_SHOWN = 3
"""Pairs with the largest change that are shown of each metric, in each direction."""

SENTENCES = 4
"""Variants up to which every one gets its sentence; of more, the clear effects that are largest."""

_HIDDEN = {"versions", "applied", "model_hash", "prompt_file", "embedding", "embeddings"}


def write_report(
    folder: Path,
    experiment: Experiment,
    scores: Scores,
    effects: Sequence[VariantEffect],
    files: Mapping[int, Path],
    left_out: Mapping[str, str],
    panels: Sequence[ReportPanel] = (),
) -> None:
    """Writes report.html, and report-2.html and so on if the images do not fit in one page.

    Args:
        folder: Of the run.
        scores, effects: What was measured, and what variants change.
        files: The images, by the index of their cell.
        left_out: Metrics that were not measured, and why.
        panels: What else to show.

    Raises:
        InputError: the folder cannot be written.
    """
    largest = {
        METRICS[name]: _largest_changes(experiment, scores, name)
        for name in scores.values
        if METRICS[name].over == "image"
    }
    shown = [cell for changes in largest.values() for cell, _ in changes]
    shown += [experiment.counterpart(cell) for cell in shown]
    pages = divided_pairs(experiment, files, shown)
    everywhere = _on_every_page(experiment, files, len(pages))
    on_the_first = {
        "groups": _groups(effects),
        "effects": [effect.row() for effect in effects],
        "left_out": left_out,
        "largest": largest,
        "panels": [_panel(panel) for panel in panels],
    }
    on_the_others = dict.fromkeys(on_the_first, ())
    page_template = template("lab.comparing", "report.html")
    for page, pairs in enumerate(pages, start=1):
        cells = [experiment.cell(variant, *pair) for pair in pairs for variant in experiment.variants]
        of_page = {
            "page": page,
            "pairs": pairs,
            "pictures": PagePictures(files),
            "viewed": _viewed(experiment, scores, files, cells + (shown if page == 1 else [])),
            "duel": True,
        }
        html = page_template.render(everywhere | (on_the_first if page == 1 else on_the_others) | of_page)
        with atomic(folder / _page_name(page)) as temporary:
            temporary.write_text(html, encoding="utf-8", errors="replace")  # names that are not UTF-8
    for page in itertools.count(len(pages) + 1):  # of a report that had more
        if not (folder / _page_name(page)).exists():
            break
        (folder / _page_name(page)).unlink()


def _on_every_page(experiment: Experiment, files: Mapping[int, Path], pages: int) -> dict[str, Any]:
    asked = question(experiment)
    return {
        "title": asked.replace("`", ""),
        "question": asked,
        "caveats": caveats(experiment),
        "experiment": experiment,
        "config": _chosen_settings(experiment),
        "made": _origins(files.values()),
        "names": [_page_name(page) for page in range(1, pages + 1)],
        "number": number,
        "pairs_by_prompt": pairs_by_prompt,
    }


def _page_name(page: int) -> str:
    return "report.html" if page == 1 else f"report-{page}.html"


def _groups(effects: Sequence[VariantEffect]) -> list[dict[str, Any]]:
    """For each metric its sentences and its plot."""
    groups = []
    for name in dict.fromkeys(effect.metric for effect in effects):
        of_metric = [effect for effect in effects if effect.metric == name]
        told = list(zip(of_metric, effect_sentences(of_metric), strict=True))
        if len(told) > SENTENCES:
            ranked = sorted(told, key=lambda pair: (not pair[1].clear, -abs(pair[0].difference)))
            told = [pair for pair in told if pair in ranked[:SENTENCES]]
        groups.append(
            {
                "name": name,
                "metric": METRICS[name],
                "answers": [sentence for _, sentence in told],
                "hidden": len(of_metric) - len(told),
                "plot": Markup(effect_plot(name, of_metric)),  # our own SVG
            }
        )
    return groups


def _largest_changes(experiment: Experiment, scores: Scores, name: str) -> list[tuple[Cell, float]]:
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


def _panel(panel: ReportPanel) -> dict[str, Any]:
    """A panel as the template takes it: of each picture either the SVG element or the source of an image."""
    pictures = [
        {
            "svg": Markup(picture.data) if isinstance(picture.data, str) else None,  # our own
            "source": image_uri(picture.data) if isinstance(picture.data, bytes) else None,
            "caption": picture.caption,
            "alt": picture.alt,
            "double": picture.double,
        }
        for picture in panel.pictures
    ]
    return {"title": panel.title, "text": panel.text, "pictures": pictures}


def _viewed(
    experiment: Experiment, scores: Scores, files: Mapping[int, Path], cells: Sequence[Cell]
) -> dict[str, Any]:
    """What the page's viewer shows of its cells, by their index; see `viewer.html`."""
    images = {}
    for cell in cells:
        record, base = record_beside(files[cell.picture]), experiment.counterpart(cell)
        settings = {key: value for key, value in record.items() if key not in _HIDDEN and value is not None}
        uses = [f"<{use['name']}> ({use['side']}, weight {use['weight']:g})" for use in record["applied"]]
        images[cell.index] = {
            "title": f"{cell.variant.name}, seed {cell.seed}",
            "picture": cell.picture,
            "base": base.index,
            "own": _told_scores(scores, cell, base)
            | settings
            | ({"embeddings": ", ".join(uses)} if uses else {}),
        }
    return {"shared": {}, "images": images}


def _told_scores(scores: Scores, cell: Cell, base: Cell) -> dict[str, str]:
    """A cell's values by their metrics' labels, each with the baseline's behind it."""
    told = {}
    for name, table in scores.values.items():
        own, other = (
            number(float(table[one.variant.index, *one.pair]), signed=False) for one in (cell, base)
        )
        told[METRICS[name].label] = own if cell is base else f"{own} (baseline {other})"
    return told


def _chosen_settings(experiment: Experiment) -> str:
    """The settings that somebody chose, as YAML; config.yaml has the defaults as well."""
    chosen = experiment.config.model_fields_set - {"out"}
    settings = experiment.config.model_dump(mode="json", include=chosen)
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def _origins(files: Iterable[Path]) -> list[tuple[str, str]]:
    """What made the images: models, embeddings and versions with their hashes."""
    facts: dict[tuple[str, str], None] = {}
    for record in map(record_beside, files):
        used = [
            ("embedding", f"<{use['name']}>, SHA-256 {use['sha256']}") for use in record.get("applied", ())
        ]
        model = "model", f"{record.get('model')}, SHA-256 {record.get('model_hash')}"
        device = "computed on", f"{record.get('device')}, {record.get('dtype')}"
        facts |= dict.fromkeys([model, *used, device, *record.get("versions", {}).items()])
    first = ("model", "embedding", "computed on")
    return sorted(facts, key=lambda fact: first.index(fact[0]) if fact[0] in first else len(first))

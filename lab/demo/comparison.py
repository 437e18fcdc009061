"""The demo's last section: a small comparison, with the answer in words and its report."""

import json
from pathlib import Path

from lab.comparing.compare import compare
from lab.demo.page import Figure, Section
from lab.demo.pictures import NEGATIVE, fresh
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.runs.run import RunFolder

PROMPTS = [
    "a noto emoji of a red apple",
    "a fluent emoji of a rocket",
    "a twemoji emoji of a cat",
    "a noto emoji of a crown on a blue background",
]
METRICS = ["clip_text", "degraded", "sharpness"]


def comparison(bundle: Bundle, out: Path, listener: Listener) -> Section:
    """Asks what the negative prompt changes, over pairs of images with the same noise."""
    report = compare(
        bundle,
        prompts=PROMPTS,
        seeds="1-4",
        axes={"negative_prompt": ["", NEGATIVE]},
        metrics=METRICS,
        out=fresh(out / "demo-comparison"),
        listener=listener,
    )
    figures = [_figure(path) for path in RunFolder(report.folder / "cells").finished().values()]
    rows = {
        label: [figure for figure in figures if figure.record["negative_prompt"] == negative][:5]
        for label, negative in (("without", ""), ("with", NEGATIVE))
    }
    link = "demo-comparison/report.html", "The report: intervals, every pair side by side, what made it"
    text = f"What does the negative prompt “{NEGATIVE}” change? " + " ".join(report.answers)
    command = "lab compare --config configs/compare/negative.yaml"
    return Section("Compared with certainty", text, command, list(rows.items()), link)


def _figure(path: Path) -> Figure:
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return Figure(f"demo-comparison/cells/{path.name}", f"{record['prompt']}, seed {record['seed']}", record)

"""Compare: what varies, in a form; the comparisons under way and those that are done, with their reports."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import gradio as gr

from lab.comparing.axes import AXES
from lab.errors import InputError
from lab.score.metrics import METRICS
from lab.serve.job_kinds import OPEN_AXES, CompareJob
from lab.serve.jobs import Jobs
from lab.serve.lane import BusyError
from lab.serve.page.parts import QUIET, RESTORE, client_of_page, rendered, said, said_of

MOST_JOBS = 20
"""Comparisons that are shown, the newest."""

MOST_AXES = 3
"""Axes that the form has room for."""

BLANK = {
    **dict.fromkeys(("negative_prompt", "slot", "prompt_replace"), ""),
    **dict.fromkeys(("embedding", "knock_out", "left_out"), None),
}
"""What an empty line among an axis' values stands for; those of other axes are left out."""

EMPTY_LINE = "An empty line stands for none"

OFFERED = [name for name, metric in METRICS.items() if set(metric.needs) <= {"clip", "quality"}]
"""The metrics that need no more than a model may bring along."""


class CompareTab:
    """The tab, built within the `gr.Blocks` that are open."""

    def __init__(self, jobs: Jobs, usual_steps: int, page: gr.Blocks, clock: gr.Timer, kept: gr.BrowserState):
        self._jobs = jobs
        with gr.Row(elem_classes="two"):
            with gr.Column(scale=5, min_width=320):
                form = self._build_form(usual_steps)
                start = gr.Button("Compare", variant="primary", elem_id="compare")
                told = gr.HTML(elem_id="compare-said")
            with gr.Column(scale=5, min_width=320):
                shown = gr.HTML(elem_id="comparisons")
        page.load(None, [kept, *form], form, js=RESTORE, **QUIET)
        gr.on([one.change for one in form], None, form, kept, js="(...form) => [form]", **QUIET)
        names, values = zip(*self._axes, strict=True)
        shown_so = [*self._rows[1:], *values, *self._fixed.values()]
        gr.on([one.change for one in names], self._fitting, list(names), shown_so, **QUIET)
        start.click(self._start, form, [told, shown], **QUIET)
        gr.on([page.load, clock.tick], self._shown, None, shown, **QUIET)

    def _build_form(self, usual_steps: int) -> list[Any]:
        prompts = gr.Textbox(label="Prompts, one a line", lines=4, elem_id="compare-prompts")
        known = [(name.replace("_", " "), name) for name in AXES if name not in OPEN_AXES]
        self._axes: list[tuple[Any, Any]] = []
        self._rows: list[gr.Row] = []
        for number in range(1, MOST_AXES + 1):
            first = number == 1
            with gr.Row(visible=number <= 2, elem_classes="axis") as row:
                axis = gr.Dropdown(
                    known if first else [("nothing", ""), *known],
                    value="negative_prompt" if first else "",
                    label="What varies" if first else "And what else",
                    min_width=120, elem_id="axis" if first else f"axis-{number}",
                )  # fmt: skip
                values = gr.Textbox(
                    label="Its values, one a line", placeholder=EMPTY_LINE if first else None,
                    lines=3 if first else 2, min_width=120, visible=first,
                    elem_id="values" if first else f"values-{number}",
                )  # fmt: skip
            self._axes.append((axis, values))
            self._rows.append(row)
        negative = gr.Textbox(
            label="Negative prompt of all", lines=1, visible=False, elem_id="compare-negative"
        )
        with gr.Row():
            seeds = gr.Textbox("1-4", label="Seeds", min_width=120, elem_id="compare-seeds")
            steps = gr.Number(usual_steps, label="Steps", precision=0, min_width=90, elem_id="compare-steps")
        metrics = gr.Dropdown(
            [(METRICS[name].label, name) for name in OFFERED], value=[], multiselect=True,
            label="Metrics (where none is chosen, all)", elem_id="metrics",
        )  # fmt: skip
        self._fixed = {"prompts": prompts, "negative_prompt": negative, "seeds": seeds, "steps": steps}
        return [prompts, negative, seeds, steps, metrics, *(field for pair in self._axes for field in pair)]

    def _fitting(self, *names: str) -> list[Any]:
        """What of the form is shown for these axes: the rows of those after the first, all their values, and the fields
        that they leave something to say to."""
        rows = [gr.update(visible=bool(before or name)) for before, name in pairwise(names)]
        values = [
            gr.update(visible=bool(name), placeholder=EMPTY_LINE if name in BLANK else "") for name in names
        ]
        return [*rows, *values, *(gr.update(visible=name not in _varied(names)) for name in self._fixed)]

    def _start(self, request: gr.Request, *values: Any) -> tuple[str, str]:
        """Queues a comparison."""
        try:
            self._jobs.add(client_of_page(request), "compare", CompareJob.build(_asked(*values)))
        except (InputError, BusyError) as error:
            return said_of(error, self._jobs.options), self._shown()
        return said(note="It waits for its turn, and goes on when this page is closed."), self._shown()

    def _shown(self) -> str:
        """The comparisons, how far they are, and where their reports are."""
        found = self._jobs.all("compare")[:MOST_JOBS]
        rows = [(job.describe(), job.breaking_off, (job.run / "report.html").is_file()) for job in found]
        return rendered("comparisons.html", rows=rows)


def _asked(
    prompts: str, negative: str, seeds: str, steps: int | None, metrics: list[str], *fields: str
) -> dict[str, Any]:
    """The form as `CompareJob` takes it.

    Raises:
        InputError: an axis that is chosen twice.
    """
    axes: dict[str, list[str | None]] = {}
    for axis, text in zip(fields[::2], fields[1::2], strict=True):
        if axis in axes:
            raise InputError(f"axes: {axis.replace('_', ' ')} is chosen twice; put its values together")
        if axis:
            lines = [line.strip() or BLANK.get(axis) for line in (text or "").split("\n")]
            axes[axis] = [line for line in lines if line or axis in BLANK]
    asked = {
        "prompts": [line for line in (prompts or "").splitlines() if line.strip()],
        "axes": axes,
        "seeds": seeds,
        "negative_prompt": negative,
        "steps": steps,
        "metrics": metrics,
    }
    given = {name: value for name, value in asked.items() if value or name in ("prompts", "axes")}
    return {name: value for name, value in given.items() if name not in _varied(axes)}


def _varied(axes: Iterable[str]) -> set[str]:
    """The options that axes vary, and that the form's own fields therefore do not say."""
    return {option for axis in axes if axis for option in AXES[axis].replaces}

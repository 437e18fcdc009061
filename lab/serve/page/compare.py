"""Compare: what varies, in a form; the comparisons under way and those that are done, with their reports."""

from typing import Any

import gradio as gr

from lab.comparing.axes import AXES
from lab.errors import InputError
from lab.serve.job import Job
from lab.serve.job_kinds import OPEN_AXES, CompareJob
from lab.serve.jobs import Jobs
from lab.serve.lane import BusyError
from lab.serve.page.parts import QUIET, RESTORE, client_of_page, rendered, said

MOST_JOBS = 20
"""Comparisons that are shown, the newest."""

REFRESH = 2.0
"""Seconds between two looks at how far they are."""


class CompareTab:
    """The tab, built within the `gr.Blocks` that are open."""

    def __init__(self, jobs: Jobs, usual_steps: int, page: gr.Blocks):
        self._jobs = jobs
        with gr.Row(elem_classes="two"):
            with gr.Column(scale=5, min_width=320):
                prompts = gr.Textbox(label="Prompts, one a line", lines=4, elem_id="compare-prompts")
                with gr.Row():
                    axis = gr.Dropdown(
                        [name for name in AXES if name not in OPEN_AXES],
                        value="negative_prompt", label="What varies", min_width=120, elem_id="axis",
                    )  # fmt: skip
                    seeds = gr.Textbox("1-4", label="Seeds", min_width=120, elem_id="compare-seeds")
                    steps = gr.Number(
                        usual_steps, label="Steps", precision=0, min_width=90, elem_id="compare-steps"
                    )
                values = gr.Textbox(
                    label="Its values, one a line; an empty line is no words", lines=3, elem_id="values"
                )
                with gr.Row(elem_classes="actions"):
                    start = gr.Button("Compare", variant="primary", elem_id="compare")
                    stop = gr.Button("Stop", elem_id="compare-stop")
                told = gr.HTML(elem_id="compare-said")
            with gr.Column(scale=5, min_width=320):
                shown = gr.HTML(elem_id="comparisons")
        form: list[Any] = [prompts, axis, values, seeds, steps]
        kept = gr.BrowserState(
            [field.value for field in form], storage_key=f"lab-compare-{len(form)}", secret="lab"
        )
        page.load(None, [kept, *form], form, js=RESTORE, **QUIET)
        gr.on([one.change for one in form], None, form, kept, js="(...form) => [form]", **QUIET)
        start.click(self._start, form, [told, shown], **QUIET)
        stop.click(self._stop, None, shown, **QUIET)
        page.load(self._shown, None, shown, **QUIET)
        gr.Timer(REFRESH).tick(self._shown, None, shown, **QUIET)

    def _start(
        self, request: gr.Request, prompts: str, axis: str, values: str, seeds: str, steps: int | None
    ) -> tuple[str, str]:
        """Queues a comparison."""
        asked: dict[str, Any] = {
            "prompts": [line for line in (prompts or "").splitlines() if line.strip()],
            "axes": {axis: (values or "").split("\n")},
            "seeds": seeds,
        }
        if axis == "embedding":
            asked["axes"] = {axis: [line or None for line in asked["axes"][axis]]}
        if steps:
            asked["steps"] = steps
        try:
            self._jobs.add(client_of_page(request), "compare", CompareJob.build(asked))
        except (InputError, BusyError) as error:
            return said(problem=str(error)), self._shown()
        return said(note="It waits for its turn, and goes on when this page is closed."), self._shown()

    def _stop(self) -> str:
        """Ends the newest comparison that has not ended; what it has made stays."""
        for job in self._comparisons():
            if not job.ended:
                self._jobs.cancel(job)
                break
        return self._shown()

    def _comparisons(self) -> list[Job]:
        return [job for job in self._jobs.all() if job.record.kind == "compare"]

    def _shown(self) -> str:
        """The comparisons, how far they are, and where their reports are."""
        rows = [
            (job.describe(), (job.run / "report.html").is_file()) for job in self._comparisons()[:MOST_JOBS]
        ]
        return rendered("comparisons.html", rows=rows)

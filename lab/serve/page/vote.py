"""Vote: unlabelled pairs of a finished comparison, and after a dozen votes what follows from them."""

from collections.abc import Callable
from typing import Any, Literal

import gradio as gr

from lab.comparing.votes import ENOUGH, Poll
from lab.errors import InputError
from lab.score.metrics import METRICS
from lab.serve.job import Job
from lab.serve.jobs import Jobs
from lab.serve.page.parts import NEWEST, QUIET, rendered, said_of


class VoteTab:
    """The tab, built within the `gr.Blocks` and the `gr.Tab` that are open."""

    def __init__(self, jobs: Jobs, page: gr.Blocks, tab: gr.Tab, kept: gr.BrowserState):
        self._jobs = jobs
        chosen = gr.Dropdown([NEWEST], value="", label="Comparison", elem_id="poll")
        with gr.Row(elem_classes="two"):
            with gr.Column(scale=5, min_width=320):
                ballot = gr.HTML(elem_id="ballot")
                with gr.Row(elem_classes="actions"):
                    left = gr.Button("← Left", variant="primary", min_width=100, elem_id="vote-left")
                    right = gr.Button("Right →", variant="primary", min_width=100, elem_id="vote-right")
                    back = gr.Button("Take back", min_width=100, elem_id="vote-back")
                told = gr.HTML(elem_id="vote-said")
            with gr.Column(scale=5, min_width=320):
                outcome = gr.HTML(elem_id="outcome")
        looked_at = gr.Textbox(visible="hidden")  # of whoever presses a key, not of the session: see `_job`
        shown = [told, ballot, outcome, looked_at, left, right, back]
        gr.on([page.load, tab.select], self._offered, kept, chosen, **QUIET).then(
            self._shown, chosen, shown, **QUIET
        )
        chosen.input(None, chosen, kept, js="chosen => chosen", **QUIET).then(
            self._shown, chosen, shown, **QUIET
        )
        for button, press in ((left, self._left), (right, self._right)):
            button.click(press, [chosen, looked_at], shown, trigger_mode="multiple", **QUIET)
        back.click(self._take_back, [chosen, looked_at], shown, **QUIET)

    def _finished(self) -> dict[str, Job]:
        """The comparisons that are done, the newest first."""
        return {job.record.id: job for job in self._jobs.all("compare") if job.record.state == "done"}

    def _offered(self, kept: str) -> Any:
        """The comparisons to choose from."""
        found = self._finished()
        return gr.update(
            choices=[NEWEST, *((_name(job), name) for name, job in found.items())],
            value=kept if kept in found else "",
        )

    def _job(self, chosen: str, looked_at: str = "") -> Job | None:
        """The comparison that was chosen; where that is the newest, the one looked at, though there is a newer one."""
        found = self._finished()
        return found.get(chosen or looked_at.partition("\n")[0]) or next(iter(found.values()), None)

    def _left(self, chosen: str, looked_at: str) -> tuple[Any, ...]:
        return self._vote(chosen, looked_at, "left")

    def _right(self, chosen: str, looked_at: str) -> tuple[Any, ...]:
        return self._vote(chosen, looked_at, "right")

    def _vote(self, chosen: str, looked_at: str, preferred: Literal["left", "right"]) -> tuple[Any, ...]:
        """Keeps a vote on the pair that was looked at, unless it has one, and shows the next one."""
        _, *pair = looked_at.split("\n")

        def keep(poll: Poll) -> None:
            if len(pair) == 2:
                poll.vote(pair[0], pair[1], preferred)

        return self._change(chosen, looked_at, keep)

    def _take_back(self, chosen: str, looked_at: str) -> tuple[Any, ...]:
        """Forgets the last vote, and shows its pair again."""
        return self._change(chosen, looked_at, Poll.take_back)

    def _change(self, chosen: str, looked_at: str, change: Callable[[Poll], object]) -> tuple[Any, ...]:
        """Changes the votes on what was looked at, unless another comparison is to be shown, and shows what is next."""
        job = self._job(chosen, looked_at)
        try:
            if job and looked_at.partition("\n")[0] == job.record.id:
                change(Poll(job.run))
        except InputError as error:
            return said_of(error, self._jobs.options), *self._shown(chosen, looked_at)[1:]
        return self._shown(chosen, looked_at)

    def _shown(self, chosen: str, looked_at: str = "") -> tuple[Any, ...]:
        """A pair, and what follows from the votes so far."""
        job = self._job(chosen, looked_at)
        problem, poll = "", None
        try:
            poll = Poll(job.run) if job else None
        except InputError as error:
            problem = said_of(error, self._jobs.options)
        ballot, votes = (poll.next(), len(poll.votes())) if poll else (None, 0)
        name = job.record.id if job else ""
        told = {"job": name, "votes": votes, "enough": ENOUGH, "poll": poll}
        pair = rendered("ballot.html", **told, ballot=ballot)
        outcome = rendered("votes.html", **told, metrics=METRICS)
        looked_at = "\n".join([name, *([ballot.left, ballot.right] if ballot else [])])
        open_ = gr.update(interactive=ballot is not None)
        return problem, pair, outcome, looked_at, open_, open_, gr.update(interactive=votes > 0)


def _name(job: Job) -> str:
    """What tells a comparison from others: what varies in it, and its prompts."""
    settings = job.record.settings
    axes = ", ".join(axis.replace("_", " ") for axis in settings.get("axes", {}))
    prompts = settings.get("prompts", [])
    return f"{axes}: {', '.join(prompts)[:60]}" if prompts else axes

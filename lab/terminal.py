"""Progress bars: how many, how fast, how long still; and which process talks to the person at the keyboard."""

import os
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from lab.listening import Listener


def own_device(device: str) -> str:
    """Under torchrun or accelerate launch, each process takes the GPU of its number."""
    import torch

    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if rank and device in ("auto", "cuda") and torch.cuda.is_available() else device


def is_first() -> bool:
    """Whether this process is the one that talks to the person at the keyboard."""
    return os.environ.get("RANK", "0") == "0"


LEAST_WIDTH, USUAL_WIDTH = 40, 80


def make_console(stderr: bool = False) -> Console:
    """A console that is wide enough to read, even where COLUMNS says 0 or 10."""
    made = Console(stderr=stderr)
    if made.width < LEAST_WIDTH:
        made.width = LEAST_WIDTH if made.width > 0 else USUAL_WIDTH
    return made


def say(console: Console, line: str) -> None:
    """Prints a line as it stands, however long; brackets in it are no markup."""
    console.print(line, soft_wrap=True, markup=False, highlight=False)


console = make_console(stderr=True)
"""What is said along the way goes to stderr; results go to stdout."""


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed, things = task.finished_speed or task.speed, task.fields["things"]
        return Text(f"{speed:.2f} {things}/s" if speed else "", style="progress.data.speed")


class Bars(Listener):
    """Shows a run on the terminal while a `with` block runs: a bar for each kind of thing, notes above them.

    Of several processes (torchrun, accelerate launch) only the first shows anything.
    """

    def __init__(self, label: str = ""):
        """Takes a word that stands before the counts."""
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            _Speed(),
            TimeRemainingColumn(compact=True),
        )
        self._label = f"{label} " if label else ""
        self._bars = Progress(*columns, console=console)
        self._tasks: dict[str, TaskID] = {}
        self._first = is_first()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars.live.is_started:  # else stopping would print an empty line
            self._bars.stop()

    def note(self, line: str) -> None:
        """A line above the bars."""
        if self._first:
            self._bars.console.print(line, soft_wrap=True, markup=False, emoji=False, highlight=False)

    def progress(self, done: float, total: int, things: str = "images") -> None:
        """Moves the bar of these things, which appears with the first of them."""
        self._move(things, done, total, f"{int(done)}/{total} {things}")

    def step(self, report: Any, last: int) -> None:
        """Moves the bar of training steps, with the last one's loss."""
        self._move("steps", report.step, last, f"step {report.step}/{last}, loss {report.loss:.3f}")

    def _move(self, things: str, done: float, total: int, shown: str) -> None:
        if not self._first:
            return
        if things not in self._tasks:
            for task in self._bars.tasks:  # what comes next takes the place of what is over
                self._bars.update(task.id, visible=not task.finished)
            self._tasks[things] = self._bars.add_task("", total=total, things=things.partition(" ")[0])
        self._bars.start()
        if done < self._bars.tasks[self._tasks[things]].completed:  # another run has begun
            self._bars.reset(self._tasks[things])
        self._bars.update(
            self._tasks[things], completed=done, total=total, description=f"{self._label}{shown}"
        )

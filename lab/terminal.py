"""Progress bars: how many, how fast, how long still; and which process talks to the person at the keyboard."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


def own_device(device: str) -> str:
    """Under torchrun or accelerate launch, each process takes the GPU of its number."""
    import torch

    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if rank and device in ("auto", "cuda") and torch.cuda.is_available() else device


def is_first() -> bool:
    """Whether this process is the one that talks to the person at the keyboard."""
    return os.environ.get("RANK", "0") == "0"


console = Console(stderr=True)
"""What is said along the way goes to stderr; results go to stdout."""


class _Speed(ProgressColumn):
    def __init__(self, things: str):
        super().__init__()
        self._things = things

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.2f} {self._things}/s" if speed else "", style="progress.data.speed")


class ImageProgress:
    """The two callbacks of a run that makes one thing after the other, shown on the terminal."""

    def __init__(self, bar: Progress, label: str):
        self._bar = bar
        self._task = bar.add_task(label, total=None, shown="0")

    def progress(self, done: float, total: int) -> None:
        """Images, or other things, done, of how many; the bar appears with the first."""
        self._bar.start()
        self._bar.update(self._task, completed=done, total=total, shown=f"{int(done)}/{total}")

    def note(self, line: str) -> None:
        """A line above the bar."""
        self._bar.console.print(line, soft_wrap=True)


@contextmanager
def image_progress(label: str = "", things: str = "images") -> Iterator[ImageProgress]:
    """Shows a bar while the block runs."""
    columns = (
        TextColumn(f"{{task.description}} {{task.fields[shown]}} {things}"),
        BarColumn(),
        _Speed(things),
        TimeRemainingColumn(compact=True),
    )
    with _stopped(Progress(*columns, console=console)) as bar:
        yield ImageProgress(bar, label)


class StepProgress:
    """The callbacks of a training run, shown on the terminal."""

    def __init__(self, bar: Progress):
        self._bar = bar
        self._encoding = bar.add_task("", total=None, shown="", visible=False)
        self._task = bar.add_task("", total=None, shown="", visible=False)

    def encoded(self, done: int, total: int) -> None:
        """Images encoded before the first step, of how many."""
        self._bar.start()
        shown = f"image {done}/{total} encoded"
        self._bar.update(self._encoding, completed=done, total=total, shown=shown, visible=done < total)

    def step(self, done: int, total: int, loss: float) -> None:
        """Steps done, of at most how many, and the last one's loss; the bar appears with the first."""
        self._bar.start()
        self._bar.update(
            self._task,
            completed=done,
            total=total,
            shown=f"step {done}/{total}, loss {loss:.3f}",
            visible=True,
        )

    def note(self, line: str) -> None:
        """A line above the bar."""
        self._bar.console.print(line, soft_wrap=True)


@contextmanager
def step_progress() -> Iterator[StepProgress]:
    """Shows a bar while the block runs."""
    columns = (TextColumn("{task.fields[shown]}"), BarColumn(), TimeRemainingColumn(compact=True))
    with _stopped(Progress(*columns, console=console)) as bar:
        yield StepProgress(bar)


@contextmanager
def _stopped(bar: Progress) -> Iterator[Progress]:
    """Stops a bar when the block ends, if it was ever started: else it would print an empty line."""
    try:
        yield bar
    finally:
        if bar.live.is_started:
            bar.stop()

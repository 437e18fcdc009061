"""How a run is followed: what it says, how far it is, and what each training step brought."""

from typing import Any


class Listener:
    """Hears how a run goes, and ignores it. A subclass overrides what it wants to hear.

    Every public function that takes its time has a parameter `listener`. `lab.terminal.Bars` shows all of it on the
    terminal.
    """

    def note(self, line: str) -> None:
        """A line that the person at the keyboard should read."""

    def progress(self, done: float, total: int, things: str = "images") -> None:
        """How many things are done (a fraction while a batch is under way), and of how many."""

    def step(self, report: Any, last: int) -> None:
        """A training step is over.

        Args:
            report: The `lab.training.loop.TrainingStep`, with `step` (from 1) and `loss`.
            last: The number of steps that there are at most.
        """

    def stopping(self) -> bool:
        """Whether a training run shall end after its next step, as after Ctrl-C: with a checkpoint to go on from."""
        return False

"""A listener that remembers what it heard."""

from lab.listening import Listener


class Heard(Listener):
    """Notes, progress as (done, total, things), and reports of training steps."""

    def __init__(self):
        self.notes = []
        self.moves = []
        self.steps = []

    def note(self, line):
        self.notes.append(line)

    def progress(self, done, total, things="images"):
        self.moves.append((done, total, things))

    def step(self, report, last):
        self.steps.append(report)


class StopsAt(Heard):
    """Asks for an end before the step of that number, over all runs that it hears, as Ctrl-C would."""

    def __init__(self, last):
        super().__init__()
        self.last = last

    def stopping(self):
        return len(self.steps) == self.last - 1

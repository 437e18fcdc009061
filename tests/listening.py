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

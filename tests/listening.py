"""A listener that remembers what it heard."""

from lab.listening import Listener


class Heard(Listener):
    """Notes, and progress as (done, total, things)."""

    def __init__(self):
        self.notes = []
        self.moves = []

    def note(self, line):
        self.notes.append(line)

    def progress(self, done, total, things="images"):
        self.moves.append((done, total, things))

"""Segments from pieces of a text: every dialect's reader hands its findings to this builder."""

from lab.prompt.syntax import Run, Segment, Span


class SegmentBuilder:
    """Collects text piece by piece and joins neighbours of equal weight."""

    def __init__(self, text: str):
        self.text = text
        self.segments: list[Segment] = []
        self._runs: list[Run] = []
        self._length = 0
        self._weight = 1.0

    def add(self, start: int, end: int, weight: float) -> None:
        """Adds characters `start:end` of the text under a weight."""
        if start == end:
            return
        if weight != self._weight:
            self.close()
            self._weight = weight
        last = self._runs[-1] if self._runs else None
        if last and last.start + last.length == start:
            self._runs[-1] = Run(last.at, last.start, last.length + end - start)
        else:
            self._runs.append(Run(self._length, start, end - start))
        self._length += end - start

    def add_break(self, span: Span) -> None:
        """Adds a `BREAK`."""
        self.close()
        self.segments.append(Segment("", 1.0, span, "break"))

    def close(self) -> None:
        """Ends the current segment, so that what follows is not joined to it."""
        if self._runs:
            first, last = self._runs[0], self._runs[-1]
            text = "".join(self.text[run.start : run.start + run.length] for run in self._runs)
            span = first.start, last.start + last.length
            self.segments.append(Segment(text, self._weight, span, "text", tuple(self._runs)))
        self._runs, self._length = [], 0

    def finish(self) -> tuple[Segment, ...]:
        """All segments."""
        self.close()
        return tuple(self.segments)

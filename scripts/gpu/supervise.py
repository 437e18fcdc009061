"""Runs entries in a process of their own, and goes on in another one when that ends, hangs or loses its device."""

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from scripts.gpu.entries import Entry
from scripts.gpu.journal import FAILED, LEFT_OUT, Journal

PAUSE = 0.2
"""Seconds between two looks at the journal."""

Start = Callable[[Sequence[str]], subprocess.Popen[bytes]]
"""Starts a process that works off the entries of these names and keeps the journal."""


class Supervisor:
    """Sees to it that every entry has a result, whatever the process does that runs them."""

    def __init__(self, start: Start, journal: Journal, log: Path, until: float, told: Callable[[], None]):
        """Takes what everything is told by.

        Args:
            log: Where the processes write; its end explains one that died.
            until: When to stop, in seconds since the epoch.
            told: Called after every change of the journal.
        """
        self._start = start
        self._journal = journal
        self._log = log
        self._until = until
        self._told = told

    def run(self, entries: Sequence[Entry]) -> None:
        """Comes back when every entry has a result."""
        while waiting := self._waiting(entries):
            if time.time() >= self._until:
                break
            process = self._start([entry.name for entry in waiting])
            try:
                self._watch(process, {entry.name: entry for entry in waiting})
            finally:
                process.kill()
                code = process.wait()
            if self._waiting(entries) == waiting and not self._mend(code):
                self._journal.end(
                    waiting[0].name, FAILED, 0, error=self._last_words(f"ended with code {code}")
                )
                break  # what cannot even begin will not begin later
            self._mend(code)
            self._told()
        for entry in self._waiting(entries):
            self._journal.end(entry.name, LEFT_OUT, 0, error="no time was left")
        self._told()

    def _watch(self, process: subprocess.Popen[bytes], entries: dict[str, Entry]) -> None:
        """Comes back when the process ended, when what it runs takes too long, or when all time is spent."""
        seen = 0
        while process.poll() is None:
            time.sleep(PAUSE)
            state = self._journal.read()
            if len(state.results) != seen:
                seen = len(state.results)
                self._told()
            now = time.time()
            if state.running is None:
                if now >= self._until:
                    return
                continue
            name, began = state.running
            limit = entries[name].limit
            if now - began > limit:
                self._journal.end(name, FAILED, now - began, error=f"gave no answer within {limit:.0f} s")
                return
            if now >= self._until:
                self._journal.end(name, LEFT_OUT, now - began, error="time was up while it ran")
                return

    def _mend(self, code: int) -> bool:
        """Writes the end of what was running when its process died; returns whether there was any."""
        running = self._journal.read().running
        if running is None:
            return False
        name, began = running
        words = self._last_words(f"its process ended with code {code}")
        self._journal.end(name, FAILED, time.time() - began, error=words)
        return True

    def _waiting(self, entries: Sequence[Entry]) -> list[Entry]:
        done = self._journal.read().results
        return [entry for entry in entries if entry.name not in done]

    def _last_words(self, what: str) -> str:
        text = self._log.read_text(encoding="utf-8", errors="replace") if self._log.is_file() else ""
        return "\n".join([what, *text.splitlines()[-6:]])

"""What happened so far, one JSON object a line: written as it happens, so that nothing that was found is lost."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PASSED, FAILED, LEFT_OUT = "passed", "failed", "left out"


@dataclass
class State:
    """A journal as it was read.

    Attributes:
        environment: The card, versions and the driver; empty before a worker came up.
        results: By the names of the entries that ended: status, seconds, figures, goals, error.
        running: The name of what began and has not ended, and when it began (seconds since the epoch); or None.
    """

    environment: dict[str, Any] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    running: tuple[str, float] | None = None


class Journal:
    """The file. Two processes write it, never at the same time."""

    def __init__(self, path: Path):
        self.path = path

    def begin(self, name: str, at: float) -> None:
        """An entry begins."""
        self._write({"begin": name, "at": at})

    def end(self, name: str, status: str, seconds: float, **more: Any) -> None:
        """An entry ended; `error` says why it failed or was left out."""
        usual = {"figures": {}, "goals": [], "error": ""}
        self._write({"end": name, "status": status, "seconds": round(seconds, 2), **usual, **more})

    def environment(self, values: Mapping[str, Any]) -> None:
        """Where the entries run."""
        self._write({"environment": dict(values)})

    def read(self) -> State:
        """Everything so far; a line that is being written is left for the next time."""
        state = State()
        lines = self.path.read_text(encoding="utf-8").split("\n")[:-1] if self.path.is_file() else []
        for line in lines:
            event = json.loads(line)
            if "environment" in event:
                state.environment |= event["environment"]
            elif "begin" in event:
                state.running = event["begin"], event["at"]
            else:
                name = event.pop("end")
                state.results[name] = event
                state.running = None
        return state

    def _write(self, event: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event, ensure_ascii=False) + "\n")

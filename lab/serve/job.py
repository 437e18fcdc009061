"""One job: what is kept of it on disk, what has been made, and who hears of it."""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from lab.config import Config
from lab.errors import InputError
from lab.files import atomic
from lab.serve.lane import Order

State = Literal["waiting", "running", "done", "failed", "cancelled", "interrupted"]

_log = logging.getLogger("lab.serve")

ENDED: frozenset[State] = frozenset(("done", "failed", "cancelled", "interrupted"))


class JobRecord(Config):
    """What is kept of a job on disk."""

    id: str
    kind: str
    settings: dict[str, Any]
    state: State
    created: float
    ended: float | None = None
    message: str = ""


class Job:
    """One job.

    Attributes:
        folder: Its own; the run is in `run`.
        record: What is kept of it.
        progress: How far it is: `done`, `total` and of what `things`; of a training also the last `step` and `loss`.
        notes: What a person should know.
        order: In the lane, as long as it waits or runs.
    """

    def __init__(self, folder: Path, record: JobRecord):
        self.folder = folder
        self.record = record
        self.progress: dict[str, Any] = {}
        self.notes: list[str] = []
        self.order: Order | None = None
        self._watchers: list[Callable[[], object]] = []

    @property
    def run(self) -> Path:
        """The run folder, as the CLI writes it."""
        return self.folder / "run"

    @property
    def images(self) -> str | None:
        """The id of the set of images that it learns from, if it does from any."""
        return self.record.settings.get("images")

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it unless it is resumed."""
        return self.record.state in ENDED

    @property
    def breaking_off(self) -> bool:
        """Whether it was cancelled just now and its run has not ended yet; until then it cannot be resumed."""
        return self.ended and self.order is not None

    def describe(self) -> dict[str, Any]:
        """All that is known of it, as plain JSON values."""
        return {**self.record.model_dump(), "progress": dict(self.progress), "notes": list(self.notes)}

    def files(self) -> dict[str, Path]:
        """What it has made so far, by names relative to its run folder."""
        found = (path for path in sorted(self.run.rglob("*")) if path.is_file() and not path.is_symlink())
        return {str(path.relative_to(self.run)): path for path in found if not path.name.startswith(".")}

    def become(self, state: State, message: str = "") -> None:
        """Enters a state, which is on disk when this returns.

        Raises:
            InputError: the disk is full or the folder cannot be written; the job's state is what it was.
        """
        record = self._in(state, message)
        with atomic(self.folder / "job.json") as temporary:
            temporary.write_text(json.dumps(record.model_dump(), indent=2))
        self.record = record
        self.changed()

    def has_become(self, state: State, message: str = "") -> None:
        """Enters a state that is a fact, and so also where it cannot be written down; the log then says so."""
        try:
            self.become(state, message)
        except InputError as error:
            _log.error("job %s is %s: %s", self.record.id, state, error)
            self.record = self._in(state, message)
            self.changed()

    def _in(self, state: State, message: str) -> JobRecord:
        ended = time.time() if state in ENDED else None
        return self.record.model_copy(update={"state": state, "message": message, "ended": ended})

    def watch(self, watcher: Callable[[], object]) -> Callable[[], None]:
        """Calls back, in any thread, whenever something changes; returns what ends that."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def changed(self) -> None:
        """Tells those who watch."""
        for watcher in list(self._watchers):
            watcher()

"""Long work with an id: it waits, runs and ends, and is found again after a restart, in folders that the CLI writes."""

import json
import logging
import secrets
import sys
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from starlette.exceptions import HTTPException

from lab.config import Config, validated
from lab.errors import InputError
from lab.files import atomic, read_json
from lab.listening import Listener
from lab.runs.run import RunFolder
from lab.serve.answers import what_went_wrong
from lab.serve.image_sets import ImageSets
from lab.serve.job_kinds import JOB_KINDS, Place
from lab.serve.lane import BusyError, Lane, Order, Piece, UnwantedError
from lab.serve.service import Service

State = Literal["waiting", "running", "done", "failed", "cancelled", "interrupted"]

INTERRUPTED = "the server ended while it ran; to resume it is to go on from what is there"

_log = logging.getLogger("lab.serve")

ENDED: frozenset[State] = frozenset(("done", "failed", "cancelled", "interrupted"))

WAITING = 100
"""Jobs that may wait."""


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
    def ended(self) -> bool:
        """Whether nothing more will happen to it unless it is resumed."""
        return self.record.state in ENDED

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


class _Ear(Listener):
    """Hears a job's run, and ends it when it is not wanted any more."""

    def __init__(self, job: Job, order: Order):
        self._job = job
        self._order = order
        self._in_steps = job.record.kind == "train"  # which end with a checkpoint, when they are asked to

    def note(self, line: str) -> None:
        self._job.notes.append(line)
        self._job.changed()

    def progress(self, done: float, total: int, things: str = "images") -> None:
        if not (self._in_steps or self._order.wanted):
            raise UnwantedError
        self._job.progress |= {"done": done, "total": total, "things": things}
        self._job.changed()

    def step(self, report: Any, last: int) -> None:
        self._job.progress |= {"step": report.step, "steps": last, "loss": report.loss}
        self._job.changed()

    def stopping(self) -> bool:
        return not self._order.wanted


class Jobs:
    """The jobs of a server, in its `out` folder: one runs at a time, beside requests for single images.

    Attributes:
        sets: The images that clients sent to learn from.
    """

    def __init__(self, service: Service):
        """Finds those that are there. What waited waits again; what ran when the server ended is interrupted.

        Raises:
            InputError: a job's record that was damaged or edited, or another server with the same folder.
        """
        self._service = service
        self.sets = ImageSets(service.config.out / "sets")
        self._folder = service.config.out / "jobs"
        self._lock = ExitStack()
        self._lock.enter_context(RunFolder(self._folder).locked())
        self._jobs: dict[str, Job] = {}
        self._turn = Lock()
        self._lane = Lane("jobs", self._run, lambda _: 1, sys.maxsize)
        found = [Job(path.parent, _read(path)) for path in self._folder.glob("*/job.json")]
        self._jobs = {job.record.id: job for job in sorted(found, key=lambda job: job.record.created)}
        self._offer_learned()  # before those that wait begin, whose texts may name it
        for job in list(self._jobs.values()):
            if job.record.state == "running":
                job.become("interrupted", INTERRUPTED)
            elif job.record.state == "waiting":
                self._queue(job, "before the restart")

    def close(self) -> None:
        """Ends the job that runs, to be resumed, and keeps those that wait for another start."""
        self._lane.close()
        self._lock.close()

    def all(self) -> list[Job]:
        """All jobs, the newest first."""
        return list(reversed(self._jobs.values()))

    def find(self, name: str) -> Job:
        """The job of that id.

        Raises:
            HTTPException: 404, there is none.
        """
        if name not in self._jobs:
            raise HTTPException(404, "there is no job of that id")
        return self._jobs[name]

    def add(self, client: Hashable, kind: str, asked: Config) -> Job:
        """Queues a job.

        Raises:
            InputError: what the run would refuse, as far as can be told at once, or more than the bounds allow.
            BusyError: too many jobs wait.
        """
        self._check_room()
        name = secrets.token_hex(16)
        settings = asked.model_dump(mode="json", include=asked.model_fields_set)
        record = JobRecord(id=name, kind=kind, settings=settings, state="waiting", created=time.time())
        job = Job(self._folder / name, record)
        JOB_KINDS[kind].check(self._place(job), asked)
        self._queue(job, client)
        self._jobs[name] = job
        return job

    def cancel(self, job: Job) -> None:
        """Ends a job; what it has made stays. One that has ended stays as it is."""
        with self._turn:
            if job.order is None or job.ended:
                return
            job.order.cancel()
            if job.record.state == "waiting":
                job.order = None
            job.has_become("cancelled", "cancelled; to resume it is to go on from what is there")

    def resume(self, job: Job, client: Hashable) -> None:
        """Queues a job again that was cancelled, interrupted or failed: it goes on from what it has made.

        Raises:
            InputError: it is done, or has not ended.
            BusyError: too many jobs wait, or it was cancelled just now and is still being broken off.
        """
        self._check_room()
        self._queue(job, client, ENDED - {"done"})

    def _check_room(self) -> None:
        if sum(job.record.state == "waiting" for job in self.all()) >= WAITING:
            raise BusyError(f"{WAITING} jobs are waiting already; try again later")

    def _queue(self, job: Job, client: Hashable, states: frozenset[State] = frozenset(("waiting",))) -> None:
        """Queues a job that is in one of these states."""
        with self._turn:
            if job.record.state not in states:
                raise InputError(
                    f"the job is {job.record.state}, and only one that was broken off can be resumed"
                )
            if job.order is not None:
                raise BusyError("the job is still being broken off; try again later")
            job.become("waiting")
            job.order = self._lane.put(Order(client, job, [job]))

    def _place(self, job: Job) -> Place:
        service = self._service
        return Place(service.bundle, service.library, service.config, self.sets, job.run)

    def _run(self, pieces: Sequence[Piece]) -> None:
        order, job = pieces[0].order, pieces[0].what
        with self._turn:
            if job.order is not order:  # it was cancelled just now
                return
            job.has_become("running")
        state, message = self._outcome(job, order)
        with self._turn:
            job.order = None
            if job.record.state != "cancelled":
                job.has_become(state, message)

    def _outcome(self, job: Job, order: Order) -> tuple[State, str]:
        """Runs a job, and says how that ended."""
        kind = JOB_KINDS[job.record.kind]
        try:
            kind.run(self._place(job), kind.asked.build(job.record.settings), _Ear(job, order))
            if job.record.kind == "train":
                self._offer_learned(job)
        except (UnwantedError, KeyboardInterrupt):
            return "interrupted", INTERRUPTED
        except Exception as error:
            return "failed", what_went_wrong(error)
        return "done", ""

    def _offer_learned(self, *more: Job) -> None:
        """Lets texts name what jobs that are done have learned, and these; of a name learned twice, the newer."""
        done = [job for job in reversed(self.all()) if job.record.state == "done"]
        trained = [job for job in (*done, *more) if job.record.kind == "train"]
        files = [path for job in trained for path in sorted(job.run.glob("*.safetensors"))]
        self._service.learned = list({path.stem: path for path in files}.values())
        self._service.refresh_embeddings()


def _read(file: Path) -> JobRecord:
    return validated(JobRecord, read_json(file), file)

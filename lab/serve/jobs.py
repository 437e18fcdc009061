"""Long work with an id: it waits, runs and ends, and is found again after a restart, in folders that the CLI writes."""

import secrets
import shutil
import sys
import time
from collections.abc import Hashable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from typing import Any

from starlette.exceptions import HTTPException

from lab.config import Config, validated
from lab.errors import InputError
from lab.files import read_json
from lab.listening import Listener
from lab.runs.run import RunFolder
from lab.serve.answers import what_went_wrong
from lab.serve.config import ServeOptions
from lab.serve.image_sets import ImageSets
from lab.serve.job import ENDED, Job, JobRecord, State
from lab.serve.job_kinds import JOB_KINDS, Place
from lab.serve.lane import BusyError, Lane, Order, Piece, UnwantedError
from lab.serve.service import Service

INTERRUPTED = "the server ended while it ran; to resume it is to go on from what is there"

WAITING = 100
"""Jobs that may wait."""


class _Ear(Listener):
    """Hears a job's run, and ends it when it is not wanted any more."""

    def __init__(self, job: Job, order: Order, options: ServeOptions):
        self._job = job
        self._order = order
        self._options = options
        self._in_steps = job.record.kind == "train"  # which end with a checkpoint, when they are asked to

    def note(self, line: str) -> None:
        self._job.notes.append(self._options.without_places(line))
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
        options: The server's.
        sets: The images that clients sent to learn from.
    """

    def __init__(self, service: Service):
        """Finds those that are there. What waited waits again; what ran when the server ended is interrupted.

        Raises:
            InputError: a job's record that was damaged or edited, or another server with the same folder.
        """
        self._service = service
        self.options = service.config
        self.sets = ImageSets(self.options.out / "sets")
        self._folder = self.options.out / "jobs"
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

    def all(self, *kinds: str) -> list[Job]:
        """All jobs, or those of some kinds, the newest first."""
        found = list(reversed(self._jobs.values()))
        return [job for job in found if not kinds or job.record.kind in kinds]

    def find(self, name: str) -> Job:
        """The job of that id.

        Raises:
            HTTPException: 404, there is none.
        """
        if name not in self._jobs:
            raise HTTPException(404, "there is no job of that id")
        return self._jobs[name]

    def place(self, run: Path | None = None) -> Place:
        """What a job works with whose run is in this folder; by default one that there is not yet."""
        service = self._service
        return Place(
            service.bundle, service.library, self.options, self.sets, run or self._folder / "new" / "run"
        )

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
        JOB_KINDS[kind].check(self.place(job.run), asked)
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
            InputError: it is done, has not ended, or was removed.
            BusyError: too many jobs wait, or it was cancelled just now and is still being broken off.
        """
        self._check_room()
        self._queue(job, client, ENDED - {"done"})

    def remove(self, job: Job) -> None:
        """Removes a job that has ended, with all that it has made, and the images that it alone learned from.

        Raises:
            InputError: it has not ended.
        """
        with self._turn:
            if job.order is not None or not job.ended:
                raise InputError(f"the job is {job.record.state}, and only one that has ended can be removed")
            self._jobs.pop(job.record.id, None)
            (job.folder / "job.json").unlink(missing_ok=True)  # first: what is left of it is no job any more
        shutil.rmtree(job.folder, ignore_errors=True)
        if job.images and job.images not in self._learned_from():
            self.sets.remove(job.images)
        self._offer_learned()

    def keep_images(self, files: Mapping[str, bytes], joined: str | None = None) -> str:
        """Keeps a set of images to learn from, as `ImageSets.keep` does, and returns its id; those that no job has
        learned from for a day are removed.

        Raises:
            InputError: see `ImageSets.keep`.
        """
        self.sets.remove_unused(self._learned_from())
        return self.sets.keep(files, joined)

    def _learned_from(self) -> set[str]:
        return {job.images for job in self.all() if job.images}

    def _check_room(self) -> None:
        if sum(job.record.state == "waiting" for job in self.all()) >= WAITING:
            raise BusyError(f"{WAITING} jobs are waiting already; try again later")

    def _queue(self, job: Job, client: Hashable, states: frozenset[State] = frozenset(("waiting",))) -> None:
        """Queues a job that is in one of these states."""
        with self._turn:
            if job.ended and job.record.id not in self._jobs:
                raise InputError("the job was removed; start another one")
            if job.record.state not in states:
                raise InputError(
                    f"the job is {job.record.state}, and only one that was broken off can be resumed"
                )
            if job.order is not None:
                raise BusyError("the job is still being broken off; try again later")
            job.become("waiting")
            job.order = self._lane.put(Order(client, job, [job]))

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
            ear = _Ear(job, order, self.options)
            kind.run(self.place(job.run), kind.asked.build(job.record.settings), ear)
            if job.record.kind == "train":
                self._offer_learned(job)
        except (UnwantedError, KeyboardInterrupt):
            return "interrupted", INTERRUPTED
        except Exception as error:
            return "failed", what_went_wrong(error, self.options)
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

"""`lab.train`: from a config to learned embeddings, with everything on disk that resumes and explains the run."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import current_thread, main_thread
from types import FrameType

import torch
from accelerate import Accelerator
from accelerate.utils.memory import should_reduce_batch_size

from lab.embeddings.embedding import Embedding
from lab.embeddings.read import read_file
from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.models.patches import frozen
from lab.sample.engine import Note
from lab.training.checkpoint import load_checkpoint
from lab.training.config import TrainConfig
from lab.training.data.latents import Progress
from lab.training.estimate import check_memory, what_would_fit
from lab.training.folder import TrainingFolder
from lab.training.loop import Ending, Loop, Report
from lab.training.objectives.table import find_objective
from lab.training.prepare import Prepared, prepare, settled
from lab.training.previews import Previews
from lab.training.recording import Recorder
from lab.training.saving import Saver
from lab.training.tracking import start_trackers
from lab.training.vectors import Learned

Watch = Callable[[Report, int], None]
"""Called after each step with what happened and with the number of steps there are at most."""


def train(
    bundle: Bundle,
    config: TrainConfig,
    *,
    on_step: Watch | None = None,
    on_note: Note | None = None,
    on_encoded: Progress | None = None,
) -> Embedding | list[Embedding]:
    """Learns embeddings from images (textual inversion, 2208.01618) or by a reward; `OBJECTIVES` has them all.

    The bundle is the same afterwards, to the bit: only the (n, width) vectors are parameters.

    Args:
        config: With `resume`, the run in that folder goes on, to the same bits on a CPU as if never interrupted.
        on_step, on_note: Hear how it goes.
        on_encoded: Hears, before the first step, how many images are encoded, and of how many.

    Returns:
        The embedding, or a list if the config names several: the vectors of the best evaluation on the fixed
        examples, as NAME.safetensors in the run's folder holds them.

    Raises:
        InputError: bad settings or data, a folder in use, a loss that is no number (the last good vectors are
            saved), vectors that never moved, or too little memory (with options that would need less).
        KeyboardInterrupt: after Ctrl-C, with a checkpoint saved.
    """
    return run(bundle, prepare(bundle, settled(config), on_note), on_step, on_note, on_encoded)


def run(
    bundle: Bundle,
    prepared: Prepared,
    on_step: Watch | None = None,
    on_note: Note | None = None,
    on_encoded: Progress | None = None,
) -> Embedding | list[Embedding]:
    """`train`, with what `prepare` made."""
    out = prepared.config.out
    assert out is not None
    accelerator = Accelerator(
        cpu=bundle.device.type == "cpu", log_with=list(prepared.config.track) or None, project_dir=str(out)
    )
    note = on_note if on_note and accelerator.is_main_process else lambda line: None
    folder = TrainingFolder(out)
    attempt = _Run(bundle, prepared, folder, accelerator, note)
    with folder.locked() if accelerator.is_main_process else nullcontext():
        return attempt.go(on_step, on_encoded)


class _Run:
    """One run in its folder. Only the main process writes."""

    def __init__(
        self, bundle: Bundle, prepared: Prepared, folder: TrainingFolder, accelerator: Accelerator, note: Note
    ):
        self._bundle = bundle
        self._prepared = prepared
        self._config = config = prepared.config
        self._folder = folder
        self._accelerator = accelerator
        self._note = note
        self._objective = find_objective(config.objective)
        check_memory(bundle, config, self._objective.work)
        vectors = {name: initial.vectors for name, initial in prepared.initial.items()}
        learned = Learned(bundle, vectors, prepared.kinds)
        self._first = learned.snapshot()
        task = self._objective.task(bundle, config, prepared.data, learned)
        self._loop = Loop(task, learned, config, prepared.rates, accelerator)
        images = prepared.data.images
        previews = Previews(bundle, config, prepared.kinds, folder.previews, images, prepared.clip)
        self._saver = Saver(bundle, prepared)

        def save(embedding: Embedding, stem: Path) -> None:
            self._saver.save(embedding, stem, self._loop.state.step)

        self._recorder = Recorder(self._loop, config, folder, previews, accelerator, images, note, save)

    def go(self, on_step: Watch | None, on_encoded: Progress | None) -> Embedding | list[Embedding]:
        self._open()
        for line in self._prepared.data.skipped:
            self._note(line)
        try:
            with frozen(self._bundle, self._config.gradient_checkpointing), interruptible() as interrupted:
                self._prepared.data.make_ready(on_encoded)
                ending = self._steps(on_step, interrupted)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, MemoryError) or should_reduce_batch_size(error):
                raise InputError(what_would_fit(self._bundle, self._config, self._objective.work)) from None
            raise
        if ending.interrupted:
            self._note(f"Stopped at step {self._loop.state.step}; --resume {self._folder.path} goes on.")
            raise KeyboardInterrupt
        return self._finish(ending)

    def _open(self) -> None:
        """Begins the folder, or goes on from its checkpoint."""
        main, state = self._accelerator.is_main_process, self._loop.state
        fingerprint = self._prepared.data.fingerprint() | {"model": self._bundle.hash}
        if self._config.resume is None:
            if main:
                self._folder.begin(self._config, fingerprint)
            return
        self._folder.check_same(fingerprint)
        load_checkpoint(self._folder.state, self._loop)
        state, last = self._loop.state, self._loop.last_step
        if state.step >= last:
            raise InputError(
                f"{self._folder.path}: no steps left, {state.step} of {last} are done; "
                "give more --steps or a later --stop"
            )
        if main:
            self._folder.rewind(state.step)
        self._note(
            f"Going on at step {state.step} of {last}, with vectors, optimizer, schedule, random numbers and the order "
            f"of images as they were; best so far: step {state.best_step}."
        )

    def _steps(self, on_step: Watch | None, interrupted: Callable[[], bool]) -> Ending:
        """Runs the loop; the main process writes as it goes."""
        if not self._accelerator.is_main_process:
            return self._loop.run(lambda report: None, interrupted)
        if self._config.track:
            start_trackers(self._accelerator, self._config, self._prepared.rates)
        self._recorder.begin()
        with self._folder.progress_file() as progress:

            def after(report: Report) -> None:
                self._recorder.step(report, progress)
                if on_step:
                    on_step(report, self._loop.last_step)

            ending = self._loop.run(after, interrupted)
        if not ending.failed:
            self._recorder.checkpoint()
        for tracker in self._accelerator.trackers:
            tracker.finish()
        return ending

    def _finish(self, ending: Ending) -> Embedding | list[Embedding]:
        """Saves the vectors to keep, and says why the run stopped."""
        state, learned = self._loop.state, self._loop.learned
        if not state.best and not ending.failed:
            raise InputError(f"{ending.reason}; it came so soon that there are no good vectors to keep")
        kept = state.best or learned.snapshot()
        made = learned.embeddings(kept)
        step = state.best_step if state.best else state.step
        moved = any(not torch.equal(kept[name], rows) for name, rows in self._first.items())
        if self._accelerator.is_main_process and (moved or ending.failed):
            self._write(made, step)
            self._recorder.page(
                f"Stopped at step {state.step}: {ending.reason}. Kept: step {step}.", ended=True
            )
        self._accelerator.wait_for_everyone()
        rates = ", ".join(f"{rate:g}" for rate in dict.fromkeys(self._prepared.rates.values()))
        if ending.failed:
            raise InputError(
                f"learning_rate: {rates} is too high, {ending.reason}; the vectors of step {step} are "
                f"kept in {self._folder.path}"
            )
        if not moved:
            raise InputError(f"the vectors never moved: learning_rate is {rates}; nothing was learned")
        self._note(
            f"Stopped at step {state.step}: {ending.reason}. The best vectors, of step {step}, are kept."
        )
        read = [read_file(self._saver.path(self._folder.path / each.name)) for each in made]
        return read[0] if len(read) == 1 else read

    def _write(self, made: list[Embedding], step: int) -> None:
        """The files that a run is for."""
        for embedding in made:
            self._saver.save(embedding, self._folder.path / embedding.name, step, final=True)
            if embedding.kind == "negative":
                self._saver.save_encoded(embedding, self._folder.path / "embeds")


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether Ctrl-C or a termination signal came; a second one interrupts at once.

    So a step is finished and saved before the run ends. Outside the main thread signals keep their meaning.
    """
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    if current_thread() is not main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

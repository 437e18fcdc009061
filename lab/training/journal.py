"""What a run leaves in its folder as it goes on: progress, checkpoints, previews, curves, page; and trackers."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator

from lab.embeddings.embedding import Embedding
from lab.embeddings.read import read_file
from lab.errors import InputError
from lab.listening import Listener
from lab.training.checkpoint import EmbeddingWriter, recipe, save_checkpoint
from lab.training.loop import Loop, TrainingStep
from lab.training.prepare import PreparedRun
from lab.training.previews import Previews, draw_curves, write_run_page


class Journal(Listener):
    """Writes down how a run goes, and passes on what it hears. The main process has one.

    Whatever writes raises `InputError` where the disk is full or the folder cannot be written.
    """

    def __init__(self, run: PreparedRun, loop: Loop, accelerator: Accelerator, listener: Listener):
        """Takes who else listens."""
        self._run = run
        self._config = run.config
        self._folder = run.folder
        self._loop = loop
        self._accelerator = accelerator
        self._listener = listener
        self._writer = EmbeddingWriter(run.bundle, run.config, run.objective, run.learned)
        self._previews = Previews(run)
        self._began = time.perf_counter()
        self._warned: set[str] = set()

    def note(self, line: str) -> None:
        """Passes a line on."""
        self._listener.note(line)

    def progress(self, done: float, total: int, things: str = "images") -> None:
        """Passes on how far it is."""
        self._listener.progress(done, total, things)

    def begin(self) -> None:
        """Before the first step: opens trackers and makes previews of the initial vectors."""
        if self._config.track:
            settings = {
                key: value
                for key, value in recipe(self._config).items()
                if isinstance(value, (bool, int, float, str))
            }
            first = next(iter(self._run.learned.beginnings.values()))
            self._accelerator.init_trackers("lab", settings | {"learning_rate": first.rate})
        if self._loop.state.step == 0 and self._previews.due(0, self._loop.last_step):
            self._previews.make(0, self._run.learned.embeddings(), self._listener)
            self.write_page("Step 0.", ended=False)

    def step(self, report: TrainingStep, last: int) -> None:
        """After each step: a line of progress, and what else is due."""
        line: dict[str, Any] = {
            "step": report.step,
            "loss": report.loss,
            "rate": report.rate,
            "gradient_norm": report.gradient_norm,
        }
        if report.evaluation is not None:
            line |= {f"fixed_{name}": value for name, value in report.evaluation.items()}
            line["norms"] = self._run.learned.norms()
            self._warn_of_norms(report.step)
        previews_due = self._previews.due(report.step, last)
        if previews_due:
            similarity = self._previews.make(report.step, self._run.learned.embeddings(), self._listener)
            line |= {} if similarity is None else {"similarity": similarity}
        line["seconds"] = round(time.perf_counter() - self._began, 3)
        self._folder.add_progress(line)
        if self._config.track:
            numbers = {key: value for key, value in line.items() if isinstance(value, float)}
            self._accelerator.log(numbers, report.step)
        if report.step % self._config.save_every == 0:
            self.save_checkpoint()
        if previews_due:
            self.write_page(f"Step {report.step} of at most {last}.", ended=False)
        self._listener.step(report, last)

    def show(self, step: int, embeddings: Sequence[Embedding]) -> None:
        """Previews of the vectors that a run leaves, unless there are some of the step at which they were so."""
        if self._config.preview_every and not self._previews.made(step):
            similarity = self._previews.make(step, embeddings, self._listener)
            if similarity is not None:
                self._folder.add_to_progress(step, {"similarity": similarity})

    def break_off(self) -> None:
        """Of a run that was interrupted and can go on: shows the vectors as they are."""
        step = self._loop.state.step
        self.show(step, self._run.learned.embeddings())
        self.write_page(f"Stopped at step {step}; it can go on.", ended=True)

    def end(self, good: bool) -> None:
        """After the last step: a checkpoint, unless its loss was no number; and closes the trackers."""
        if good:
            self.save_checkpoint()
        for tracker in self._accelerator.trackers:
            tracker.finish()

    def save_checkpoint(self) -> None:
        """The state for resuming, and the vectors as files that any tool reads."""
        step = self._loop.state.step
        for embedding in self._run.learned.embeddings():
            self._writer.write(embedding, self._folder.checkpoints / f"{embedding.name}-{step:06d}", step)
        save_checkpoint(self._folder.state, self._loop)

    def save_embeddings(self, embeddings: Sequence[Embedding], step: int, status: str) -> None:
        """The files that a run is for, previews of what they hold, and the page of a run that has ended.

        Args:
            step: At which the vectors were so.
            status: Why the run stopped, in a sentence or two.
        """
        for embedding in embeddings:
            self._writer.write(embedding, self._folder.path / embedding.name, step, final=True)
            if embedding.kind == "negative" and not embedding.layers:
                self._writer.write_prompt_embeds(embedding, self._folder.path / "embeds")
        self.show(step, embeddings)
        self.write_page(status, ended=True)

    @property
    def saved(self) -> bool:
        """Whether the files that the run is for are there and hold the best vectors."""
        best = self._loop.state.best
        try:
            found = self.read_embeddings()
        except InputError:
            return False
        kept = {f"{one.name}/{key}": rows for one in found for key, rows in one.tensors.items()}
        return not best or all(name in kept and torch.equal(rows, kept[name]) for name, rows in best.items())

    def read_embeddings(self) -> list[Embedding]:
        """The embeddings as `save_embeddings` wrote them."""
        return [read_file(self._writer.path(self._folder.path / name)) for name in self._run.learned.rows]

    def write_page(self, status: str, ended: bool) -> None:
        """Curves and page, from what is in the folder."""
        lines = self._folder.read_progress()
        if lines:
            draw_curves(self._folder.path / "curves.png", lines)
        title = f"Learning {', '.join(self._run.learned.rows)}"
        images = self._run.objective.images
        write_run_page(self._folder, title, status, ended, self._config.to_yaml(), images)

    def _warn_of_norms(self, step: int) -> None:
        """Says once of each encoder's vectors that they have left the vocabulary's range."""
        for name, line in self._run.learned.outside_vocabulary().items():
            if name not in self._warned:
                self._warned.add(name)
                self._listener.note(f"Step {step}: {line}")

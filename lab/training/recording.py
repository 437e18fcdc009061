"""What a run leaves in its folder while it goes on: progress, checkpoints, previews, curves, page."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from accelerate import Accelerator

from lab.embeddings.embedding import Embedding
from lab.sample.engine import Note
from lab.training.checkpoint import save_checkpoint
from lab.training.config import TrainConfig
from lab.training.folder import TrainingFolder
from lab.training.loop import Loop, Report
from lab.training.page import draw_curves, write_page
from lab.training.previews import Previews

Save = Callable[[Embedding, Path], None]


class Recorder:
    """Hears of every step in the main process and writes it down."""

    def __init__(
        self,
        loop: Loop,
        config: TrainConfig,
        folder: TrainingFolder,
        previews: Previews,
        accelerator: Accelerator,
        images: Sequence[Path],
        note: Note,
        save: Save,
    ):
        self._loop = loop
        self._config = config
        self._folder = folder
        self._previews = previews
        self._accelerator = accelerator
        self._images = images
        self._note = note
        self._save = save
        self._began = time.perf_counter()
        self._warned: set[str] = set()

    def begin(self) -> None:
        """Before the first step: previews of the initial vectors."""
        if self._loop.state.step == 0 and self._previews.due(0, self._loop.last_step):
            self._previews.make(0, self._loop.learned.embeddings())
            self.page("Step 0.", ended=False)

    def step(self, report: Report, progress: TextIO) -> None:
        """After each step: a line of progress, and what else is due."""
        line: dict[str, Any] = {
            "step": report.step,
            "loss": report.loss,
            "rate": report.rate,
            "gradient_norm": report.gradient_norm,
        }
        last = self._loop.last_step
        if report.evaluation is not None:
            line |= {f"fixed_{name}": value for name, value in report.evaluation.items()}
            line["norms"] = self._loop.learned.norms()
            self._warn()
        shown = self._previews.due(report.step, last)
        if shown:
            similarity = self._previews.make(report.step, self._loop.learned.embeddings())
            line |= {} if similarity is None else {"similarity": similarity}
        line["seconds"] = round(time.perf_counter() - self._began, 3)
        progress.write(json.dumps(line) + "\n")
        if self._config.track:
            values = {key: value for key, value in line.items() if isinstance(value, float)}
            self._accelerator.log(values, report.step)
        if report.step % self._config.save_every == 0:
            self.checkpoint()
        if shown:
            self.page(f"Step {report.step} of at most {last}.", ended=False)

    def checkpoint(self) -> None:
        """The state for resuming, and the vectors as files that any tool reads."""
        step = self._loop.state.step
        for embedding in self._loop.learned.embeddings():
            self._save(embedding, self._folder.checkpoints / f"{embedding.name}-{step:06d}")
        save_checkpoint(self._folder.state, self._loop)

    def page(self, status: str, ended: bool) -> None:
        """Curves and page, from what is in the folder."""
        if self._folder.progress.is_file() and (lines := self._folder.read_progress()):
            draw_curves(self._folder.path / "curves.png", lines)
        names = ", ".join(self._loop.learned.rows)
        write_page(
            self._folder.path, f"Learning {names}", status, ended, self._config.to_yaml(), self._images
        )

    def _warn(self) -> None:
        """Says once of each encoder's vectors that they have left the vocabulary's range."""
        for subject, line in self._loop.learned.outside().items():
            if subject not in self._warned:
                self._warned.add(subject)
                self._note(f"Step {self._loop.state.step}: {line}")

"""The folder of a training run: settings, progress, checkpoints, previews, and a lock while it is written."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TextIO

from lab.errors import InputError
from lab.files import atomic, writing
from lab.runs.run import RunFolder
from lab.training.config import TrainConfig


class TrainingFolder:
    """Where things are in a run's folder."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.yaml"
        self.progress = path / "progress.jsonl"
        self.data = path / "data.json"
        self.checkpoints = path / "checkpoints"
        self.state = self.checkpoints / "state.safetensors"
        self.previews = path / "previews"

    def locked(self) -> AbstractContextManager[None]:
        """Keeps other processes out while a block runs; see `RunFolder.locked`."""
        return RunFolder(self.path).locked()

    def begin(self, config: TrainConfig, data: Mapping[str, str]) -> None:
        """Writes down what the run is made of.

        Raises:
            InputError: there is a run in the folder already.
        """
        if self.config.exists():
            raise InputError(
                f"{self.path}: holds a run already; go on with it by --resume {self.path}, or choose another --out"
            )
        for file, text in ((self.data, json.dumps(data, indent=1)), (self.config, config.to_yaml())):
            with atomic(file) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")

    def check_same(self, data: Mapping[str, str]) -> None:
        """Compares images, captions and model with those that the run began with.

        Raises:
            InputError: they differ; the first differences are named.
        """
        before = _read_json(self.data)
        changed = [name for name in sorted(before.keys() | data.keys()) if before.get(name) != data.get(name)]
        if changed:
            how = {True: "changed", False: "is missing"}
            what = [
                f"{name} {how[name in data]}" if name in before else f"{name} is new" for name in changed[:3]
            ]
            raise InputError(
                f"{self.path}: this run cannot go on with other data or another model: {', '.join(what)}"
            )

    def rewind(self, step: int) -> None:
        """Removes progress lines of steps after `step`, which will be done again."""
        if self.progress.is_file():
            kept = [json.dumps(line) + "\n" for line in self.read_progress() if line["step"] <= step]
            with atomic(self.progress) as temporary:
                temporary.write_text("".join(kept), encoding="utf-8")

    def read_progress(self) -> list[dict[str, Any]]:
        """The progress lines so far; a line cut short by a crash is left out."""
        lines = []
        for line in self.progress.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
        return lines

    @contextmanager
    def progress_file(self) -> Iterator[TextIO]:
        """The progress file, to append lines to; each is on disk when it is written."""
        with writing(self.progress), self.progress.open("a", encoding="utf-8", buffering=1) as file:
            yield file


def resumed(config: TrainConfig, changeable: set[str]) -> TrainConfig:
    """The config of the run in `config.resume`, with those of the given settings on top that may change.

    Raises:
        InputError: no run there, or a setting that would make it another run.
    """
    folder = config.resume
    assert folder is not None
    stored = TrainingFolder(folder)
    if not stored.config.is_file():
        raise InputError(f"{folder}: no training run to resume there; it has no config.yaml")
    before = TrainConfig.read(stored.config)
    given = config.given()
    for name, value in given.items():
        if name not in changeable and value != getattr(before, name):
            raise InputError(
                f"{name}: the run in {folder} has {getattr(before, name)!r}; leave it out to resume, or start a new run"
            )
    return before.model_copy(update=given | {"out": folder, "resume": folder})


def fresh_folder(name: str) -> Path:
    """A folder under outputs/ that is not there yet."""
    first = Path("outputs", f"train-{name}")
    taken = [path.name for path in first.parent.glob(f"{first.name}*")] if first.parent.is_dir() else []
    numbers = [
        int(match[1] or 1)
        for each in taken
        if (match := re.fullmatch(rf"{re.escape(first.name)}(?:-(\d+))?", each))
    ]
    return first.with_name(f"{first.name}-{max(numbers) + 1}") if numbers else first


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{path}: cannot be read; without it the run cannot be resumed") from None

"""The folder of a training run, and the config of the run that begins or goes on in it."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from lab.config import validated
from lab.errors import InputError
from lab.files import atomic, check_writable, parse_json, read_text, writing
from lab.models.facts import ModelFacts, check_clip_skip
from lab.models.family import FAMILIES
from lab.models.schedulers import check_scheduler
from lab.runs.run import RunFolder
from lab.strict_yaml import read_yaml
from lab.training.config import TrainConfig, check_options, config_class
from lab.training.places import check_place

FREE_TO_CHANGE = {
    *("out", "resume", "steps", "stop", "save_every", "layout", "latents", "track"),
    *("images", "prompt_file", "embeddings", "model", "device", "clip", "init"),
    *("preview_every", "preview_prompt", "preview_seeds", "preview_steps", "preview_negative"),
}
"""Settings that a resumed run may have otherwise; images, prompts, embeddings and model are compared by content, and
where vectors began does not matter any more."""


class _ProgressLine(BaseModel):
    """What curves are drawn from."""

    model_config = ConfigDict(strict=True)

    step: int = Field(ge=0)
    loss: float
    fixed_loss: float = 0.0
    similarity: float = 0.0


class TrainingFolder(RunFolder):
    """Where things are in a run's folder, and its progress: one JSON object a step."""

    @property
    def progress(self) -> Path:
        """The file with a line for each step."""
        return self.path / "progress.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of the vectors at several steps."""
        return self.path / "checkpoints"

    @property
    def state(self) -> Path:
        """The file from which a run goes on."""
        return self.checkpoints / "state.safetensors"

    @property
    def previews(self) -> Path:
        """The folder of images that show what the vectors do."""
        return self.path / "previews"

    def add_progress(self, line: dict[str, Any]) -> None:
        """Appends a line to the progress file; it is on disk when this returns.

        Raises:
            InputError: the disk is full or the folder cannot be written.
        """
        with writing(self.progress), self.progress.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def add_to_progress(self, step: int, values: Mapping[str, float]) -> None:
        """Adds what became known later to the line of a step, if there is one.

        Raises:
            InputError: the folder cannot be written.
        """
        lines = [{**line, **values} if line["step"] == step else line for line in self.read_progress()]
        self._write_progress(lines)

    def read_progress(self) -> list[dict[str, Any]]:
        """The progress lines so far; what is no step's line is left out, such as one that a crash cut short."""
        lines = []
        text = self.progress.read_text(encoding="utf-8", errors="replace") if self.progress.is_file() else ""
        for line in text.splitlines():
            try:
                found = parse_json(line, self.progress)
                validated(_ProgressLine, found, self.progress)
            except InputError:
                continue
            lines.append(found)
        return lines

    def begin_run(self, config: TrainConfig, contents: Mapping[str, str]) -> None:
        """Writes down what the run is made of. The same run that stopped before its first checkpoint begins anew.

        Raises:
            InputError: there is another run in the folder, or one that can go on.
        """
        made_here = {"images": None} if config.worst_of is not None else {}
        text = config.model_copy(update=made_here).to_yaml()
        if self.exists:
            if self.state.is_file() or self.differences(text, contents, FREE_TO_CHANGE):
                raise InputError(
                    f"{self.path}: holds a run already; go on with it by --resume {self.path}, or choose another --out"
                )
            self.rewind_progress(0)
        self.begin(text, contents)

    def read_config(self, changes: Mapping[str, Any] | None = None) -> TrainConfig:
        """The config that the run began with, with other settings on top.

        Raises:
            InputError: it cannot be read, or names what is not there any more.
        """
        settings, _ = read_yaml(read_text(self.config), str(self.config))
        if settings is None or (isinstance(settings, dict) and "name" not in settings):
            raise InputError(
                f"{self.path}: no training run, as its config.yaml names no embedding; images and comparisons go on "
                "where the same command is given again"
            )
        objective = settings.get("objective") if isinstance(settings, dict) else None
        return config_class(str(objective)).read(self.config, changes)

    def check_contents(self, contents: Mapping[str, str]) -> None:
        """Compares images, captions and model with those that the run began with.

        Raises:
            InputError: they differ; the first differences are named.
        """
        changed = self.differences(read_text(self.config), contents)
        if changed:
            raise InputError(
                f"{self.path}: this run cannot go on with other data or another model: {changed}"
            )

    def rewind_progress(self, step: int) -> None:
        """Removes the progress lines of steps after `step`, which will be done again.

        Raises:
            InputError: the folder cannot be written.
        """
        if self.progress.is_file():
            self._write_progress([line for line in self.read_progress() if line["step"] <= step])

    def _write_progress(self, lines: Sequence[Mapping[str, Any]]) -> None:
        with atomic(self.progress) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def run_config(config: TrainConfig) -> TrainConfig:
    """The config that a run has: as given, with a folder chosen, or that of the run that is resumed.

    Raises:
        InputError: options that the objective does not take, no name, offloading, images from two sources, a folder
            that cannot be written, no run to resume, or settings that it does not have.
    """
    if config.resume is not None:
        return _resumed_config(config, config.resume)
    check_options(config)
    if config.cpu_offload:
        raise InputError(
            "cpu_offload: gradients go back through text encoders and U-Net; leave it out to learn"
        )
    if config.name is None:
        raise InputError("name: there is none; say with --name what prompts will call the embedding")
    if config.worst_of is not None and config.images is not None:
        raise InputError("images: come from a folder or are made with --worst-of; leave one of them out")
    out = config.out or _unused_folder(config.name)
    check_writable(out)
    if config.latents is not None:
        check_writable(config.latents, "--latents")
    if out.resolve() in [folder.resolve() for folder, _ in config.folders() if folder is not None]:
        raise InputError(
            f"{out}: is the folder of the images, and the run's own pictures would join them; choose another --out"
        )
    return config.model_copy(update={"out": out})


def check_model(config: TrainConfig, facts: ModelFacts) -> None:
    """Refuses settings that do not fit a model, which need not be loaded yet.

    Raises:
        InputError: a file layout without room for one set of vectors a text encoder, a clip skip that leaves no
            layer, a place for the vectors that it does not have, or a scheduler that it cannot use.
    """
    check_clip_skip(config.clip_skip, facts)
    check_place(config, facts)
    if config.scheduler is not None:
        check_scheduler(config.scheduler, False, facts.scheduler_config)
    keys = set(facts.widths)
    if config.layout == "sdxl" and keys != set(FAMILIES["sdxl"].encoder_keys):
        raise InputError(
            f"layout: sdxl is for SDXL's two text encoders; {facts.source} has one, so take diffusers"
        )
    if config.layout not in (None, "sdxl") and len(keys) > 1:
        raise InputError(
            f"layout: {config.layout} holds one encoder's vectors; {facts.source} has two, so take sdxl"
        )


def _resumed_config(config: TrainConfig, folder: Path) -> TrainConfig:
    """The config of the run in a folder, with those of the given settings on top that may change."""
    stored = TrainingFolder(folder)
    if not stored.exists:
        raise InputError(f"{folder}: no training run to resume there; it has no config.yaml")
    given = config.given()
    free = {name: value for name, value in given.items() if name in FREE_TO_CHANGE}
    before = stored.read_config(free | {"out": folder, "resume": folder})
    for name, value in given.items():
        if name not in free and value != getattr(before, name):
            raise InputError(
                f"{name}: the run in {folder} has {getattr(before, name)!r}; leave it out to resume, or start a new run"
            )
    return before


def _unused_folder(name: str) -> Path:
    """A folder under outputs/ that is not there yet."""
    first = Path("outputs", f"train-{name}")
    taken = [path.name for path in first.parent.glob(f"{first.name}*")] if first.parent.is_dir() else []
    matches = [re.fullmatch(rf"{re.escape(first.name)}(?:-(\d+))?", folder) for folder in taken]
    numbers = [int(match[1] or 1) for match in matches if match]
    return first.with_name(f"{first.name}-{max(numbers) + 1}") if numbers else first

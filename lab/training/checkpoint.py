"""What a training run saves: all that it needs to go on, in one file, and its embeddings with what made them.

Nothing that is saved with an embedding names folders of the machine that the run was on.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Annotated, Any

import safetensors
import safetensors.torch
from pydantic import AfterValidator, BaseModel, Field
from safetensors import SafetensorError
from torch import Tensor

from lab.condition.embeds_file import write_embeds
from lab.condition.encode import encode
from lab.config import validated
from lab.embeddings.embedding import INITIAL_TEXT, PARTNER, Embedding, Provenance
from lab.embeddings.layouts import WRITABLE
from lab.errors import InputError
from lab.files import atomic, parse_json
from lab.models.bundle import Bundle
from lab.training.config import RunOptions, TrainConfig, not_taken
from lab.training.data.captions import placeholder
from lab.training.learned import Learned
from lab.training.loop import Loop, State
from lab.training.objectives.objective import Objective
from lab.training.run_folder import FREE_TO_CHANGE

FORMAT = "lab-training-2"


def _with_loss(evaluation: dict[str, float]) -> dict[str, float]:
    if "loss" not in evaluation:
        raise ValueError("an evaluation without its loss")
    return evaluation


class _Stored(BaseModel):
    """What a checkpoint says of where its run stood; the loss is infinite before anything was evaluated."""

    step: int = Field(ge=0)
    evaluations: list[tuple[int, Annotated[dict[str, float], AfterValidator(_with_loss)]]]
    best_step: int = Field(ge=0)
    best_loss: float


def save_checkpoint(path: Path, loop: Loop) -> None:
    """Writes a loop's vectors, best vectors, optimizer and state to a safetensors file.

    Raises:
        InputError: the disk is full or the folder cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for name, rows in loop.learned.named():
        tensors[f"vectors/{name}"] = rows.detach().cpu()
        for key, value in loop.optimizer.state[rows].items():
            tensors[f"optimizer/{key}/{name}"] = value.detach().cpu()
    tensors |= {f"best/{name}": rows for name, rows in loop.state.best.items()}
    state = {
        "step": loop.state.step,
        "evaluations": loop.state.evaluations,
        "best_step": loop.state.best_step,
        "best_loss": loop.state.best_loss,
    }
    with atomic(path) as temporary:
        settings = json.dumps(_settings_to_keep(loop.config))
        metadata = {"format": FORMAT, "state": json.dumps(state), "settings": settings}
        safetensors.torch.save_file(
            {key: value.contiguous() for key, value in tensors.items()}, temporary, metadata
        )


def load_checkpoint(path: Path, loop: Loop) -> None:
    """Sets a loop's vectors, optimizer and state to those in a file.

    Raises:
        InputError: no such file, damaged, or of a run that learns other vectors or was set otherwise.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a mapping
        if metadata["format"] != FORMAT:
            raise ValueError(metadata["format"])
        state = validated(_Stored, parse_json(metadata["state"], path), path)
        settings = parse_json(metadata["settings"], path)
        if not all(tensor.is_floating_point() for tensor in tensors.values()):
            raise ValueError("whole numbers")
    except InputError:
        raise
    except (SafetensorError, OSError, KeyError, ValueError):
        raise InputError(
            f"{path}: not a checkpoint of this version, or damaged; start the run anew"
        ) from None
    wanted = {name: tuple(rows.shape) for name, rows in loop.learned.named()}
    stored, best = (
        {name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)}
        for part in ("vectors/", "best/")
    )
    stored, of_best = ({name: tuple(rows.shape) for name, rows in each.items()} for each in (stored, best))
    if wanted != stored:
        raise InputError(
            f"{path}: a checkpoint of another run: it holds {_list_shapes(stored)} where {_list_shapes(wanted)} are "
            "learned"
        )
    if of_best not in ({}, wanted):
        raise InputError(f"{path}: its best vectors are not those of its last; start the run anew")
    _check_settings(path, settings, loop)
    _check_optimizer(path, tensors, state.step, loop)
    loop.learned.restore({name: tensors[f"vectors/{name}"] for name in wanted})
    learned = dict(loop.learned.named())
    for tensor_name, saved in tensors.items():
        part, *rest = tensor_name.split("/", 2)
        if part == "optimizer":
            key, name = rest
            rows = learned[name]
            loop.optimizer.state[rows][key] = saved if key == "step" else saved.to(rows.device)
    loop.state = State(state.step, state.evaluations, best, state.best_step, state.best_loss)


def _settings_to_keep(config: TrainConfig) -> dict[str, Any]:
    """What a resumed run may not have otherwise, as JSON takes it; paths are their last components."""
    return {key: _portable(value, key) for key, value in config.model_dump(exclude=FREE_TO_CHANGE).items()}


def _check_settings(path: Path, settings: Any, loop: Loop) -> None:
    """Refuses a run whose config.yaml was edited since, where that would learn something else."""
    now = _settings_to_keep(loop.config)
    if not isinstance(settings, dict):
        raise InputError(f"{path}: its settings are damaged; start the run anew")
    for name in sorted(settings.keys() & now.keys()):
        if settings[name] != now[name]:
            raise InputError(
                f"{name}: {now[name]!r} in config.yaml, where {path} was learned with {settings[name]!r}; put it back"
            )


def _check_optimizer(path: Path, tensors: Mapping[str, Tensor], step: int, loop: Loop) -> None:
    """Refuses an optimizer's state that is not that of this run after a step."""
    wanted = loop.optimizer_shapes() if step else {}
    stored = {
        key.removeprefix("optimizer/"): tuple(value.shape)
        for key, value in tensors.items()
        if key.startswith("optimizer/")
    }
    if wanted != stored:
        odd = sorted({*wanted.items()} ^ {*stored.items()})[0][0]
        raise InputError(
            f"{path}: {odd} of its optimizer's state is missing, unknown or of another shape; start anew"
        )


def _list_shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in sorted(shapes.items()))


HERE_ONLY = {*RunOptions.model_fields, "device"}
"""Settings that say where a run was done and what it left there, not how the vectors were learned."""


def recipe(config: TrainConfig) -> dict[str, Any]:
    """The settings that learn the same elsewhere, as JSON takes them, without options of other objectives; paths are
    their last components."""
    elsewhere = HERE_ONLY | {*not_taken(config, config.objective)}
    settings = config.model_dump(exclude=elsewhere, exclude_none=True)
    return {key: _portable(value, key) for key, value in settings.items()}


def without_folders(text: str) -> str:
    """A setting that may be a path, by its last component: `file:FOLDER/x.pt` becomes `file:x.pt`.

    A repository on a hub (`hub:`), words (`text:`) and caption templates stay as they are.
    """
    if text.startswith(("hub:", "text:")) or "{" in text:  # a repository, words, a caption template
        return text
    mark = "file:" if text.startswith("file:") else ""
    return mark + PurePath(text.removeprefix(mark)).name


SOURCES = {"model", "vae", "lora", "init", "negative_init", "templates"}
"""Settings whose texts may be paths; all others, such as a revision, are what they are."""


def _portable(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return {name: _portable(part, name) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_portable(part, key) for part in value]
    if isinstance(value, PurePath):
        return value.name
    return without_folders(value) if isinstance(value, str) and key in SOURCES else value


def embedding_file(stem: Path, layout: str | None) -> Path:
    """A file with the suffix of a run's layout."""
    return stem.with_name(stem.name + (WRITABLE[layout].suffixes[0] if layout else ".safetensors"))


class EmbeddingWriter:
    """Writes the embeddings of one run."""

    def __init__(self, bundle: Bundle, config: TrainConfig, objective: Objective[Any], learned: Learned):
        self._bundle = bundle
        self._config = config
        self._objective = objective
        self._beginnings = learned.beginnings

    def path(self, stem: Path) -> Path:
        """A file with the suffix of the run's layout."""
        return embedding_file(stem, self._config.layout)

    def write(self, embedding: Embedding, stem: Path, step: int, final: bool = False) -> None:
        """Writes an embedding; what it was learned from joins it where the layout has room.

        Args:
            stem: The file without its suffix.
            step: At which the vectors were so.
            final: It is what the run was for: the halves of a pair then say that they belong together.

        Raises:
            InputError: the disk is full or the folder cannot be written.
        """
        path, partner = self.path(stem), self._beginnings[embedding.name].partner
        metadata = self._metadata(embedding.name)
        if final and partner:
            metadata[PARTNER] = partner
        provenance = Provenance(step=step, base_model=without_folders(self._bundle.source))
        embedding = replace(embedding, provenance=provenance)
        embedding.save(path, self._config.layout, metadata if path.suffix == ".safetensors" else None)

    def _metadata(self, name: str) -> dict[str, str]:
        """What an embedding was learned from and how; `lab.images` are those that show it, and `lab.data_hash` is that
        of all images of the run, masks and captions, or of the prompts, whatever their files are called."""
        data = "\n".join(sorted(self._objective.fingerprint().values()))
        return {
            "lab.base_model_hash": self._bundle.hash,
            "lab.images": str(len(self._objective.images_of(name))),
            "lab.data_hash": hashlib.sha256(data.encode()).hexdigest(),
            INITIAL_TEXT: self._beginnings[name].initial.text,
            "lab.learning_rate": f"{self._beginnings[name].rate:g}",
            "lab.config": json.dumps(recipe(self._config), separators=(",", ":")),
            **self._objective.facts(),
        }

    def write_prompt_embeds(self, embedding: Embedding, folder: Path) -> None:
        """Writes a negative embedding as prompt embeddings: a whole negative prompt, the form of 2412.19637.

        Raises:
            InputError: the disk is full or the folder cannot be written.
        """
        conditioning = encode(
            self._bundle,
            placeholder(embedding.name),
            embeddings=embedding,
            dialect="plain",
            clip_skip=self._config.clip_skip,
        )
        about = {"model": without_folders(self._bundle.source), "clip_skip": self._config.clip_skip}
        write_embeds(folder / f"{embedding.name}-embeds.safetensors", conditioning, about)

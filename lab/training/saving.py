"""Writes what a run learned, with what made it, and nothing of the folders of the machine that it ran on."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from lab.condition.embeds_file import write_embeds
from lab.condition.encode import encode
from lab.embeddings.embedding import PARTNER, Embedding, Provenance
from lab.embeddings.layouts import WRITABLE
from lab.models.bundle import Bundle
from lab.training.config import RunOptions, TrainConfig
from lab.training.data.captions import placeholder
from lab.training.learned import Learned
from lab.training.objectives.objective import Objective

HERE_ONLY = {*RunOptions.model_fields, "device"}
"""Settings that say where a run was done and what it left there, not how the vectors were learned."""


def recipe(config: TrainConfig) -> dict[str, Any]:
    """The settings that learn the same elsewhere, as JSON takes them; paths are their last components."""
    settings = config.model_dump(exclude=HERE_ONLY, exclude_none=True)
    return {key: _portable(value) for key, value in settings.items()}


def without_folders(text: str) -> str:
    """A setting that may be a path, by its last component: of `file:FOLDER/x.pt` that is `file:x.pt`."""
    if text.startswith(("hub:", "text:")) or "{" in text:  # a repository, words, a caption template
        return text
    mark = "file:" if text.startswith("file:") else ""
    return mark + PurePath(text.removeprefix(mark)).name


def _portable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _portable(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_portable(part) for part in value]
    if isinstance(value, PurePath):
        return value.name
    return without_folders(value) if isinstance(value, str) else value


class EmbeddingWriter:
    """Writes the embeddings of one run."""

    def __init__(self, bundle: Bundle, config: TrainConfig, objective: Objective[Any], learned: Learned):
        self._bundle = bundle
        self._config = config
        self._objective = objective
        self._beginnings = learned.beginnings

    def path(self, stem: Path) -> Path:
        """A file with the suffix of the run's layout."""
        layout = self._config.layout
        return stem.with_name(stem.name + (WRITABLE[layout].suffixes[0] if layout else ".safetensors"))

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
        """What an embedding was learned from and how; `lab.data_hash` is that of all images, masks and captions, or
        of the prompts, whatever their files are called."""
        data = "\n".join(sorted(self._objective.fingerprint().values()))
        return {
            "lab.base_model_hash": self._bundle.hash,
            "lab.images": str(len(self._objective.images)),
            "lab.data_hash": hashlib.sha256(data.encode()).hexdigest(),
            "lab.initial_text": self._beginnings[name].initial.text,
            "lab.learning_rate": f"{self._beginnings[name].rate:g}",
            "lab.config": json.dumps(recipe(self._config)),
        }

    def write_prompt_embeds(self, embedding: Embedding, folder: Path) -> None:
        """Writes a negative embedding as prompt embeddings: a whole negative prompt, the form of 2412.19637."""
        conditioning = encode(
            self._bundle,
            placeholder(embedding.name),
            embeddings=embedding,
            dialect="plain",
            clip_skip=self._config.clip_skip,
        )
        about = {"model": without_folders(self._bundle.source), "clip_skip": self._config.clip_skip}
        write_embeds(folder / f"{embedding.name}-embeds.safetensors", conditioning, about)

"""Writes what a run learned, with what made it."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from lab.condition.encode import encode
from lab.condition.files import write_embeds
from lab.embeddings.embedding import Embedding, Provenance
from lab.embeddings.read import PARTNER
from lab.models.bundle import Bundle
from lab.training.data.captions import placeholder
from lab.training.prepare import Prepared
from lab.training.recipe import recipe, without_folders


class Saver:
    """Writes the embeddings of one run."""

    def __init__(self, bundle: Bundle, prepared: Prepared):
        self._bundle = bundle
        self._prepared = prepared
        self._config = prepared.config

    def path(self, stem: Path) -> Path:
        """A file with the suffix of the run's layout."""
        return stem.with_name(stem.name + (".pt" if self._config.layout == "a1111" else ".safetensors"))

    def save(self, embedding: Embedding, stem: Path, step: int, final: bool = False) -> None:
        """Writes an embedding; what it was learned from joins it where the layout has room.

        Args:
            stem: The file without its suffix.
            step: At which the vectors were so.
            final: It is what the run was for: the halves of a pair then say that they belong together.

        Raises:
            InputError: the disk is full or the folder cannot be written.
        """
        layout = self._config.layout
        path = self.path(stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = self._about(embedding.name)
        if final and embedding.name in self._prepared.partners:
            metadata[PARTNER] = self._prepared.partners[embedding.name]
        provenance = Provenance(step=step, base_model=without_folders(self._bundle.source))
        made = replace(embedding, provenance=provenance)
        made.save(path, layout, None if layout == "a1111" else metadata)

    def _about(self, name: str) -> dict[str, str]:
        """What an embedding was learned from and how; `lab.data_hash` is that of all images, masks and captions, or
        of the prompts, whatever their files are called."""
        data = "\n".join(sorted(self._prepared.data.fingerprint().values()))
        return {
            "lab.base_model_hash": self._bundle.hash,
            "lab.images": str(len(self._prepared.data.images)),
            "lab.data_hash": hashlib.sha256(data.encode()).hexdigest(),
            "lab.initial_text": self._prepared.initial[name].text,
            "lab.learning_rate": f"{self._prepared.rates[name]:g}",
            "lab.config": json.dumps(recipe(self._config)),
        }

    def save_encoded(self, embedding: Embedding, folder: Path) -> None:
        """Writes a negative embedding as the embeddings of the whole negative prompt (the form of 2412.19637)."""
        conditioning = encode(
            self._bundle, placeholder(embedding.name), [embedding], clip_skip=self._config.clip_skip
        )
        about = {"model": without_folders(self._bundle.source), "clip_skip": self._config.clip_skip}
        write_embeds(folder / f"{embedding.name}-embeds.safetensors", conditioning, about)

"""ComfyUI's own reading of prompts, over a bundle's text encoder."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lab.condition.towers import layers_back, run_tower
from lab.models.bundle import Bundle
from scripts.peers.mocks import Chunks, import_module, package


class ComfyUI:
    """ComfyUI's reading of prompts."""

    def __init__(self, folder: Path, bundle: Bundle, embeddings: Mapping[str, Tensor], directory: str):
        """Takes a checkout, and (n, width) vectors by name, which are in `directory` as files too.

        Raises:
            InputError: files that are missing, or packages that they need.
        """
        with package(folder, "comfy", ("sd1_clip",)):
            self.code = import_module("comfy.sd1_clip")
            sys.modules["comfy.model_management"].intermediate_device = lambda: torch.device("cpu")
        tower = bundle.towers[0]
        self._bundle, self._tower = bundle, tower
        self._rows = {
            tuple(row.tolist()): (name, place)
            for name, rows in embeddings.items()
            for place, row in enumerate(rows)
        }
        self.tokenizer = self.code.SDTokenizer(
            tower.tokenizer.name_or_path,
            pad_with_end=tower.pad_token_id == tower.tokenizer.eos_token_id,
            embedding_directory=directory,
            embedding_size=tower.width,
        )
        weigher = type("Weigher", (self.code.ClipTokenWeightEncoder,), {"encode": self._encode})
        self.weigher = weigher()
        self.weigher.special_tokens = {
            "start": tower.tokenizer.bos_token_id,
            "end": tower.tokenizer.eos_token_id,
            "pad": tower.pad_token_id,
        }

    def attention(self, text: str) -> list[tuple[str, float]]:
        """Texts with their weights, in the segments that it encodes."""
        read = self.code.token_weights(self.code.escape_important(text), 1.0)
        return [(self.code.unescape_important(said), weight) for said, weight in read if said]

    def chunks(self, text: str) -> Chunks:
        """The chunks of a text."""
        return [
            [
                (self._rows[tuple(token.tolist())] if isinstance(token, Tensor) else token, weight)
                for token, weight in chunk
            ]
            for chunk in self.tokenizer.tokenize_with_weights(text)
        ]

    @torch.no_grad()
    def conditioning(self, text: str) -> Tensor:
        """(1, n, width)."""
        return self.weigher.encode_token_weights(self.tokenizer.tokenize_with_weights(text))[0]

    def _encode(self, chunks: Sequence[Sequence[int | Tensor]]) -> tuple[Tensor, None]:
        tower, vocabulary = self._tower, self._tower.encoder.config.vocab_size
        learned = [token for chunk in chunks for token in chunk if isinstance(token, Tensor)]
        places = iter(range(vocabulary, vocabulary + len(learned)))
        ids = [[next(places) if isinstance(token, Tensor) else token for token in chunk] for chunk in chunks]
        back = layers_back(self._bundle.family, tower, 0)
        rows = [row[None] for row in learned]
        return run_tower(self._bundle.family, tower, torch.tensor(ids), back, learned=rows)[0].float(), None

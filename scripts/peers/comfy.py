"""ComfyUI's own reading of prompts, over a bundle's text encoders."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lab.condition.towers import run_tower
from lab.models.bundle import Bundle, TextTower
from lab.models.facts import layers_back
from scripts.peers.mocks import Chunks, import_module, package


class ComfyUI:
    """ComfyUI's reading of prompts."""

    def __init__(
        self, folder: Path, bundle: Bundle, embeddings: Mapping[str, Mapping[str, Tensor]], directory: str
    ):
        """Takes a checkout, and (n, width) vectors by name and text encoder, which are in `directory` as files too.

        Raises:
            InputError: files that are missing, or packages that they need.
        """
        both = bundle.family == "sdxl"
        with package(folder, "comfy", ("sd1_clip", "sdxl_clip") if both else ("sd1_clip",)):
            self.code = import_module("comfy.sd1_clip")
            self.pair = import_module("comfy.sdxl_clip").SDXLClipModel if both else None
            management: Any = sys.modules["comfy.model_management"]
            management.intermediate_device = lambda: torch.device("cpu")
        self._bundle = bundle
        self._rows = {
            tuple(row.tolist()): (name, place)
            for name, vectors in embeddings.items()
            for rows in vectors.values()
            for place, row in enumerate(rows)
        }
        self.tokenizers = [self._tokenizer(tower, directory) for tower in bundle.towers]
        self.weighers = [self._weigher(tower) for tower in bundle.towers]

    def _tokenizer(self, tower: TextTower, directory: str) -> Any:
        return self.code.SDTokenizer(
            self._bundle.towers[0].tokenizer.name_or_path,  # the second's, in diffusers, reads "!" as padding
            pad_with_end=tower.pad_token_id == tower.tokenizer.eos_token_id,
            embedding_directory=directory,
            embedding_size=tower.width,
            embedding_key=tower.key,
        )

    def _weigher(self, tower: TextTower) -> Any:
        def encode(_: Any, chunks: Sequence[Sequence[int | Tensor]]) -> tuple[Tensor, Tensor | None]:
            return self._encode(tower, chunks)

        weigher = type("Weigher", (self.code.ClipTokenWeightEncoder,), {"encode": encode})()
        weigher.special_tokens = {
            "start": tower.tokenizer.bos_token_id,
            "end": tower.tokenizer.eos_token_id,
            "pad": tower.pad_token_id,
        }
        return weigher

    def attention(self, text: str) -> list[tuple[str, float]]:
        """Texts with their weights, in the segments that it encodes."""
        read = self.code.token_weights(self.code.escape_important(text), 1.0)
        return [(self.code.unescape_important(said), weight) for said, weight in read if said]

    def chunks(self, text: str) -> Chunks:
        """The chunks of a text for the first text encoder."""
        return [
            [
                (self._rows[tuple(token.tolist())] if isinstance(token, Tensor) else token, weight)
                for token, weight in chunk
            ]
            for chunk in self.tokenizers[0].tokenize_with_weights(text)
        ]

    @torch.no_grad()
    def conditioning(self, text: str) -> tuple[Tensor, Tensor | None]:
        """(1, n, width), and SDXL's pooled vector (1, p)."""
        tokens = [tokenizer.tokenize_with_weights(text) for tokenizer in self.tokenizers]
        if self.pair is None:
            return self.weighers[0].encode_token_weights(tokens[0])[0], None
        encoders = SimpleNamespace(clip_l=self.weighers[0], clip_g=self.weighers[1])
        embeds, pooled = self.pair.encode_token_weights(encoders, {"l": tokens[0], "g": tokens[1]})
        return embeds, pooled

    def _encode(
        self, tower: TextTower, chunks: Sequence[Sequence[int | Tensor]]
    ) -> tuple[Tensor, Tensor | None]:
        vocabulary = tower.encoder.config.vocab_size
        learned = [token for chunk in chunks for token in chunk if isinstance(token, Tensor)]
        places = iter(range(vocabulary, vocabulary + len(learned)))
        ids = [[next(places) if isinstance(token, Tensor) else token for token in chunk] for chunk in chunks]
        back = layers_back(self._bundle.family, tower.encoder.config.num_hidden_layers, 0)
        rows = [row[None] for row in learned]
        states, output = run_tower(self._bundle.family, tower, torch.tensor(ids), back, learned=rows)
        return states.float(), getattr(
            output, "text_embeds", None
        )  # of the encoder that projects the pooled text

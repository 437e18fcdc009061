"""Chunks of tokens and learned vectors through the text encoders: differentiable, no parsing, no weights."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lab.condition.tokens import Chunk, chunk_ids
from lab.condition.vectors import Placement, scattered
from lab.errors import InputError
from lab.models.bundle import Bundle, Family, TextTower

Vectors = Mapping[str, Mapping[str, Tensor]]
"""Learned vectors by name and by the key of the text encoder that reads them: (n, width) each."""


class Hidden(NamedTuple):
    """Encoded chunks.

    Attributes:
        towers: One (chunks, context, width) tensor for each text encoder, in the U-Net's order.
        pooled: (chunks, p) from SDXL's second encoder, or None.
    """

    towers: tuple[Tensor, ...]
    pooled: Tensor | None

    @property
    def joined(self) -> Tensor:
        """(chunks, context, d): the encoders' states side by side, as the U-Net takes them."""
        return torch.cat(self.towers, dim=-1)


def encode_chunks(
    bundle: Bundle, chunks: Sequence[Chunk], vectors: Vectors | None = None, clip_skip: int = 0
) -> Hidden:
    """Encodes chunks, each for itself.

    Differentiable with respect to `vectors`; wrap the call in `torch.no_grad()` where gradients are not needed.

    Args:
        vectors: What the pieces with an `embedding` name stand for.
        clip_skip: Leaves out this many of the last layers (0 for none); the A1111 web UI counts one more.

    Raises:
        InputError: `clip_skip` leaves no layer.
    """
    states, pooled = [], None
    for tower in bundle.towers:
        ids = torch.tensor([chunk_ids(chunk, tower) for chunk in chunks], device=bundle.device)
        with scattered(tower.encoder, _placements(chunks, vectors or {}, tower.key)):
            output = tower.encoder(ids, output_hidden_states=True)
        states.append(select_layer(bundle.family, tower, output, clip_skip))
        pooled = getattr(output, "text_embeds", pooled)
    return Hidden(tuple(states), pooled)


def select_layer(family: Family, tower: TextTower, output: object, clip_skip: int) -> Tensor:
    """The layer that conditions the U-Net.

    SD 1.x and 2.x: `hidden_states[-(k+1)]` through the final LayerNorm. SDXL: `hidden_states[-(k+2)]` without it.
    """
    layers = tower.encoder.config.num_hidden_layers
    back = clip_skip + (2 if family == "sdxl" else 1)
    if back > layers:
        most = layers - back + clip_skip
        raise InputError(f"clip skip {clip_skip}: the text encoder has {layers} layers; use 0 to {most}")
    state = output.hidden_states[-back]  # type: ignore[attr-defined]
    return state if family == "sdxl" else final_norm(tower.encoder)(state)


def final_norm(encoder: nn.Module) -> nn.Module:
    """The LayerNorm after the last layer: transformers up to 5.5 keeps it in `text_model`, later ones do not."""
    return getattr(encoder, "text_model", encoder).final_layer_norm


def _placements(chunks: Sequence[Chunk], vectors: Vectors, key: str) -> list[Placement]:
    places = []
    for entry, chunk in enumerate(chunks):
        position = 1  # after the start token
        for piece in chunk:
            if piece.embedding is not None:
                places.append(Placement(entry, position, vectors[piece.embedding][key]))
            position += len(piece.ids)
    return places

"""Chunks of tokens and learned vectors through the text encoders: differentiable, no parsing, no weights."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lab.condition.chunks import Chunk, chunk_ids
from lab.condition.vectors import Vectors
from lab.errors import InputError
from lab.models.bundle import Bundle, TextTower
from lab.models.family import FAMILIES, Family
from lab.models.patches import Placement, learned_rows


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
    bundle: Bundle,
    chunks: Sequence[Chunk],
    vectors: Vectors | None = None,
    clip_skip: int = 0,
    padded: bool = True,
) -> Hidden:
    """Encodes chunks, each for itself.

    Differentiable with respect to `vectors`; call it under `torch.no_grad()` where gradients are not needed.

    Args:
        vectors: What the pieces with an `embedding` name stand for.
        clip_skip: Leaves out this many of the last layers (0 for none); the A1111 web UI counts one more.
        padded: Whether all rows of a context are wanted, or those up to the longest chunk's end token. The encoders
            are causal, so that the padding after it changes none of them.

    Raises:
        InputError: `clip_skip` leaves no layer.
    """
    states, pooled = [], None
    for index, tower in enumerate(bundle.towers):
        ids = torch.tensor([chunk_ids(chunk, tower, index) for chunk in chunks], device=bundle.device)
        if not padded:
            ids = ids[:, : max(sum(piece.length for piece in chunk) for chunk in chunks) + 2]
        back = layers_back(bundle.family, tower, clip_skip)
        with learned_rows(tower.encoder, _placement(chunks, vectors or {}, tower.key, index)):
            state, output = run_tower(bundle.family, tower, ids, back)
        states.append(state)
        pooled = getattr(output, "text_embeds", pooled)
    return Hidden(tuple(states), pooled)


def layers_back(family: Family, tower: TextTower, clip_skip: int) -> int:
    """Which hidden state conditions the U-Net, counted from the end: k + 1 for SD 1.x and 2.x, k + 2 for SDXL.

    Raises:
        InputError: the encoder has no such layer.
    """
    least = FAMILIES[family].hidden_layer
    layers = tower.encoder.config.num_hidden_layers
    if clip_skip + least > layers:
        raise InputError(
            f"clip skip {clip_skip}: the text encoder has {layers} layers; use 0 to {layers - least}"
        )
    return clip_skip + least


def run_tower(
    family: Family, tower: TextTower, ids: Tensor, back: int, mask: Tensor | None = None
) -> tuple[Tensor, Any]:
    """`hidden_states[-back]`, on SD 1.x and 2.x through the final LayerNorm, on SDXL without it; and the output.

    Args:
        ids: (b, context) token ids.
        mask: (b, context) of ones, and zeros where a token is hidden from the others.
    """
    traits = FAMILIES[family]
    if traits.final_norm and back == 1:  # what the encoder gives anyway
        output = tower.encoder(ids, attention_mask=mask)
        return output.last_hidden_state, output
    output = tower.encoder(ids, attention_mask=mask, output_hidden_states=True)
    state = output.hidden_states[-back]
    return (_final_norm(tower.encoder)(state) if traits.final_norm else state), output


def _final_norm(encoder: nn.Module) -> Any:
    # transformers before 5.6 keeps it in `text_model`, later ones in CLIPTextModel itself
    return getattr(encoder, "text_model", encoder).final_layer_norm


def _placement(chunks: Sequence[Chunk], vectors: Vectors, key: str, index: int) -> Placement | None:
    entries, positions, rows = list[int](), list[int](), list[Tensor]()
    for entry, chunk in enumerate(chunks):
        position = 1  # after the start token
        for piece in chunk:
            if piece.embedding is not None:
                rows.append(vectors[piece.embedding][key])
                entries += [entry] * len(piece.ids[index])
                positions += range(position, position + len(piece.ids[index]))
            position += len(piece.ids[index])
    if not rows:
        return None
    return Placement(torch.tensor(entries), torch.tensor(positions), torch.cat(rows))

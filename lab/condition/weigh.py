"""The weights of a text's pieces, applied to what the text encoders made of it."""

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from lab.condition.layout import Chunk, chunk_ids
from lab.condition.options import Weighting
from lab.condition.towers import layers_back, run_tower
from lab.condition.vectors import Placement, Vectors, scattered
from lab.condition.weighting import WEIGHTINGS, Weighted
from lab.models.bundle import Bundle, TextTower


def weigh_chunks(
    bundle: Bundle,
    chunks: Sequence[Chunk],
    states: Tensor,
    empty: Tensor,
    vectors: Vectors,
    weighting: Weighting,
    clip_skip: int,
) -> Tensor:
    """(chunks, context, d) float32 on the CPU: `states` under the weights of the chunks' pieces.

    Args:
        states: (chunks, context, d) hidden states, all text encoders side by side.
        empty: (context, d) of an empty chunk.
    """
    if all(piece.weight == 1 for chunk in chunks for piece in chunk):
        return states
    context = states.shape[1]
    widths = [tower.width for tower in bundle.towers]
    weighted = []
    for index, tower in enumerate(bundle.towers):
        ids, rows = _with_learned_ids(chunks, tower, index, vectors)
        text = Weighted(
            z=states.split(widths, -1)[index],
            e=empty.split(widths, -1)[index],
            w=torch.tensor([_row_weights(chunk, index, context) for chunk in chunks]),
            ids=torch.tensor(ids, device=bundle.device),
            fragments=_fragments(chunks, ids, index),
            special_ids=(tower.tokenizer.bos_token_id, tower.tokenizer.eos_token_id, tower.pad_token_id),
            encode=_encode(bundle, tower, rows, clip_skip),
        )
        weighted.append(WEIGHTINGS[weighting](text).cpu())
    return torch.cat(weighted, dim=-1)


def _row_weights(chunk: Chunk, index: int, context: int = 0) -> list[float]:
    weights = [1.0]  # the start token
    for piece in chunk:
        weights += [piece.weight] * len(piece.ids[index])
    return weights + [1.0] * (context - len(weights))


def _with_learned_ids(
    chunks: Sequence[Chunk], tower: TextTower, index: int, vectors: Vectors
) -> tuple[list[list[int]], list[Tensor]]:
    """The chunks' token ids, in which every learned vector has an id of its own past the vocabulary's end."""
    first = tower.encoder.config.vocab_size
    ids, rows = [], list[Tensor]()
    for chunk in chunks:
        ids.append(chunk_ids(chunk, tower, index))
        position = 1
        for piece in chunk:
            if piece.embedding is not None:
                learned = range(first + len(rows), first + len(rows) + piece.length)
                ids[-1][position : position + piece.length] = learned
                rows.extend(vectors[piece.embedding][tower.key])
            position += len(piece.ids[index])
    return ids, rows


def _fragments(
    chunks: Sequence[Chunk], ids: Sequence[Sequence[int]], index: int
) -> list[tuple[list[int], float]]:
    """Runs of equal weight: their token ids, and the weight."""
    tokens = [
        (token, weight)
        for chunk, row in zip(chunks, ids, strict=True)
        for token, weight in zip(row[1:], _row_weights(chunk, index)[1:], strict=False)
    ]
    return [
        ([token for token, _ in run], weight) for weight, run in groupby(tokens, key=lambda pair: pair[1])
    ]


def _encode(
    bundle: Bundle, tower: TextTower, rows: Sequence[Tensor], clip_skip: int
) -> Callable[[Tensor, Tensor], Tensor]:
    vocabulary = tower.encoder.config.vocab_size
    back = layers_back(bundle.family, tower, clip_skip)

    def encode(ids: Tensor, mask: Tensor) -> Tensor:
        learned = ids >= vocabulary
        placement = None
        if learned.any():
            picked = torch.stack([rows[index] for index in (ids[learned] - vocabulary).tolist()])
            entries, positions = learned.nonzero(as_tuple=True)
            placement = Placement(entries, positions, picked)
        with scattered(tower.encoder, placement):
            state, _ = run_tower(bundle.family, tower, ids.masked_fill(learned, 0), back, mask)
        return state.float()

    return encode

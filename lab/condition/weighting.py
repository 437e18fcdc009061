"""Weight arithmetic: from what an encoder makes of a text to what its weights make of that.

    z  (chunks, context, width)  hidden states of the text
    e  (context, width)          hidden states of an empty chunk
    w  (chunks, context)         weights, 1 for start, end, padding and unweighted tokens

SDXL's two encoders are weighted each for itself, as every tool does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from lab.condition.chunks import Chunk, chunk_ids
from lab.condition.config import Dialect, Weighting
from lab.condition.towers import layers_back, run_tower
from lab.condition.vectors import Vectors
from lab.models.bundle import Bundle, TextTower
from lab.models.patches import Placement, learned_rows


@dataclass(frozen=True)
class Weighted:
    """A text as one encoder sees it.

    Attributes:
        z, e, w: As above, float32.
        ids: (chunks, context) token ids.
        fragments: Each run of tokens under one weight, in order, with that weight.
        special_ids: The encoder's start, end and padding tokens.
        encode: (ids (b, context), mask (b, context) of ones and zeros) to hidden states (b, context, width).
    """

    z: Tensor
    e: Tensor
    w: Tensor
    ids: Tensor
    fragments: Sequence[tuple[Sequence[int], float]]
    special_ids: tuple[int, int, int]
    encode: Callable[[Tensor, Tensor], Tensor]


def a1111(text: Weighted) -> Tensor:
    """z w mean(z) / mean(z w), each chunk with its own means: the web UI's "Original" emphasis.

    The web UI takes the means over all variants of a scheduled prompt at once; here each text stands for itself.
    """
    return torch.stack([_keep_mean(z, w) for z, w in zip(text.z, text.w, strict=True)])


def _keep_mean(z: Tensor, w: Tensor) -> Tensor:
    weighted = z * w[:, None]
    mean = weighted.mean()
    if mean == 0 or (w == 1).all():
        return weighted
    return weighted * (z.mean() / mean)


def a1111_no_norm(text: Weighted) -> Tensor:
    """z w: the web UI's "No norm" emphasis."""
    return text.z * text.w[..., None]


def comfy(text: Weighted) -> Tensor:
    """e + w (z - e), where w is not 1: ComfyUI's comfy/sd1_clip.py."""
    w = text.w[..., None]
    return torch.where(w == 1, text.z, text.e + w * (text.z - text.e))


def compel(text: Weighted) -> Tensor:
    """The compel library's arithmetic, done by the library.

    Above 1: e + w (z - e). Below 1 it also averages with encodings in which the fragment is masked.
    """
    from lab.condition.compel import weigh  # the library takes a moment to import

    return weigh(text)


def ignore(text: Weighted) -> Tensor:
    """z: weights are dropped."""
    return text.z


WEIGHTINGS: Mapping[Weighting, Callable[[Weighted], Tensor]] = {
    "a1111": a1111,
    "a1111-no-norm": a1111_no_norm,
    "comfy": comfy,
    "compel": compel,
    "ignore": ignore,
}

OWN_WEIGHTING: Mapping[Dialect, Weighting] = {
    "a1111": "a1111",
    "comfy": "comfy",
    "compel": "compel",
    "plain": "ignore",
}
"""Each dialect's own arithmetic."""


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
        with learned_rows(tower.encoder, placement):
            state, _ = run_tower(bundle.family, tower, ids.masked_fill(learned, 0), back, mask)
        return state.float()

    return encode

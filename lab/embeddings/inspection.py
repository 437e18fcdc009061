"""What can be said of vectors beside a vocabulary and beside each other."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.embeddings.embedding import Embedding

FAMILIES = {
    frozenset({"clip_l"}): "SD 1.x",
    frozenset({"clip_h"}): "SD 2.x",
    frozenset({"clip_l", "clip_g"}): "SDXL",
}


class Vocabulary(NamedTuple):
    """A text encoder's token embeddings (tokens, width), and the tokens as its tokenizer writes them."""

    table: Tensor
    tokens: Sequence[str]


class Neighbour(NamedTuple):
    """A vocabulary token near a vector, and the cosine between the two."""

    token: str
    cosine: float


def family(embedding: Embedding) -> str:
    """The model family that has these text encoders, as far as their widths tell."""
    return FAMILIES.get(frozenset(embedding.vectors), "unknown")


def norm_quartiles(table: Tensor) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile of the norms of token embeddings (tokens, width)."""
    low, middle, high = table.norm(dim=1).quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    return low, middle, high


def norm_percentiles(vectors: Tensor, table: Tensor) -> list[float]:
    """For each vector (n, width), the percentage of token embeddings (tokens, width) whose norm is smaller."""
    smaller = table.norm(dim=1) < vectors.norm(dim=1, keepdim=True)
    return (100 * smaller.float().mean(dim=1)).tolist()


def nearest_tokens(vectors: Tensor, vocabulary: Vocabulary, count: int = 10) -> list[list[Neighbour]]:
    """For each vector (n, width), the `count` tokens of highest cosine, the nearest first."""
    similarity = F.normalize(vectors, dim=1) @ F.normalize(vocabulary.table, dim=1).T
    best = similarity.topk(min(count, len(vocabulary.table)), dim=1)
    return [
        [Neighbour(vocabulary.tokens[index], value) for value, index in zip(values, indices, strict=True)]
        for values, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def cosines(vectors: Tensor) -> Tensor:
    """(n, n) cosines between the rows of (n, width)."""
    unit = F.normalize(vectors, dim=1)
    return unit @ unit.T

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


class Neighbour(NamedTuple):
    """A vocabulary token near a vector, and the cosine between the two."""

    token: str
    cosine: float


def family(embedding: Embedding) -> str:
    """The model family that has these text encoders, as far as their widths tell."""
    return FAMILIES.get(frozenset(embedding.vectors), "unknown")


def norm_quartiles(table: Tensor) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile of the norms of a vocabulary (tokens, width)."""
    low, middle, high = torch.quantile(table.float().norm(dim=1), torch.tensor([0.25, 0.5, 0.75])).tolist()
    return low, middle, high


def norm_percentile(norm: float, table: Tensor) -> float:
    """The share of a vocabulary's tokens, in percent, whose norm is smaller."""
    return 100 * (table.float().norm(dim=1) < norm).float().mean().item()


def nearest_tokens(
    vectors: Tensor, table: Tensor, tokens: Sequence[str], count: int = 10
) -> list[list[Neighbour]]:
    """For each vector (n, width), the `count` tokens of the vocabulary (tokens, width) of highest cosine."""
    similarity = F.normalize(vectors.float(), dim=1) @ F.normalize(table.float(), dim=1).T
    best = similarity.topk(min(count, len(tokens)), dim=1)
    return [
        [Neighbour(tokens[index], value) for value, index in zip(values, indices, strict=True)]
        for values, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def cosines(vectors: Tensor) -> Tensor:
    """(n, n) cosines between the rows of (n, width)."""
    unit = F.normalize(vectors.float(), dim=1)
    return unit @ unit.T


def mean_cosines(embeddings: Sequence[Embedding], key: str) -> Tensor:
    """(files, files) cosines between the mean vectors of embeddings for one encoder."""
    return cosines(torch.stack([embedding.vectors[key].mean(dim=0) for embedding in embeddings]))

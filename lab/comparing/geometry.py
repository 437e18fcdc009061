"""Where vectors lie: learned ones beside words, and whole prompts beside each other. Nothing is generated."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lab.condition.encode import Embeddings, encode
from lab.condition.pooling import pool
from lab.embeddings.embedding import Embedding
from lab.embeddings.inspection import Neighbour, Vocabulary, cosines, nearest_tokens
from lab.errors import InputError, did_you_mean
from lab.models.bundle import Bundle

WORD_END = "</w>"
NEAREST = 5


@dataclass(frozen=True, eq=False)
class Geometry:
    """Labelled vectors of one space and how they lie to each other.

    Attributes:
        space: What the vectors are, such as `vectors of clip_l`.
        labels: One for each vector.
        groups: What each vector belongs to, such as an embedding's name.
        vectors: (n, d) float32.
        nearest: For each vector, the vocabulary's nearest tokens; empty where no vocabulary was given.
    """

    space: str
    labels: tuple[str, ...]
    groups: tuple[str, ...]
    vectors: Tensor
    nearest: tuple[tuple[Neighbour, ...], ...] = ()

    @cached_property
    def cosine(self) -> Tensor:
        """(n, n) cosines."""
        return cosines(self.vectors)

    @cached_property
    def dot(self) -> Tensor:
        """(n, n) dot products; norms squared on the diagonal."""
        return self.vectors @ self.vectors.T

    @cached_property
    def norms(self) -> Tensor:
        """(n,) Euclidean norms."""
        return self.vectors.norm(dim=1)

    @cached_property
    def principal(self) -> tuple[Tensor, tuple[float, float]]:
        """(n, 2) coordinates on the first two principal components, and the share of the variance on each."""
        return principal_components(self.vectors)

    def data(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        points, shares = self.principal
        return {
            "space": self.space,
            "labels": list(self.labels),
            "groups": list(self.groups),
            "norms": self.norms.tolist(),
            "cosine": self.cosine.tolist(),
            "dot": self.dot.tolist(),
            "nearest": [[near._asdict() for near in row] for row in self.nearest],
            "pca": {"points": points.tolist(), "variance": list(shares)},
        }


def learned_geometry(
    embeddings: Sequence[Embedding], key: str, vocabulary: Vocabulary | None = None, words: Sequence[str] = ()
) -> Geometry:
    """Learned vectors of one encoder, and words, as they go into it.

    Args:
        key: The encoder, such as `clip_l`; embeddings without vectors for it are left out.
        vocabulary: The encoder's own, which words are looked up in and nearest tokens are found in.

    Raises:
        InputError: a word that is not one token of the vocabulary, or nothing to show.
    """
    rows = [
        (f"{one.name} {place}" if one.count > 1 else one.name, one.name, vector)
        for one in embeddings
        for place, vector in enumerate(one.vectors.get(key, ()))
    ]
    rows += [(word, "words", _lookup(word, vocabulary)) for word in words]
    if not rows:
        raise InputError(f"geometry: no embedding has vectors for {key}")
    if len({len(vector) for *_, vector in rows}) > 1:
        raise InputError(
            f"geometry: the vectors for {key} are of several widths; compare those of one model family"
        )
    labels, groups, vectors = zip(*rows, strict=True)
    stacked = torch.stack(vectors).float()
    fits = vocabulary is not None and vocabulary.table.shape[1] == stacked.shape[1]
    near = nearest_tokens(stacked, vocabulary, NEAREST) if vocabulary is not None and fits else ()
    return Geometry(f"vectors of {key}", labels, groups, stacked, tuple(map(tuple, near)))


def prompt_geometry(bundle: Bundle, prompts: Sequence[str], embeddings: Embeddings = ()) -> Geometry:
    """Whole prompts: their pooled vectors, of SDXL those of its second encoder.

    Raises:
        InputError: no prompts, or a prompt that names an embedding which is not there.
    """
    if not prompts:
        raise InputError("geometry: there are no prompts to compare")
    context = min(tower.context_length for tower in bundle.towers)
    pooled = []
    for cond in encode(bundle, list(prompts), embeddings):
        first = cond.parts[0].entries[0][1]
        pooled.append(pool(first, "eos", context) if first.pooled is None else first.pooled)
    return Geometry("pooled prompts", tuple(prompts), ("prompts",) * len(prompts), torch.stack(pooled))


def principal_components(vectors: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """(n, 2) coordinates of vectors (n, d) on their first two principal components, and the share of the variance
    on each (0 to 1). Each component points to where its largest coordinate is positive."""
    centred = (vectors - vectors.mean(dim=0)).double()
    left, sizes, _ = torch.linalg.svd(centred, full_matrices=False)
    points = left[:, :2] * sizes[:2]
    points = torch.nn.functional.pad(points, (0, 2 - points.shape[1]))
    largest = points.gather(0, points.abs().argmax(dim=0, keepdim=True))
    shares = sizes.square() / sizes.square().sum().clamp_min(1e-30)
    first, second = (*shares[:2].tolist(), 0.0)[:2]
    return (points * torch.where(largest < 0, -1.0, 1.0)).float(), (first, second)


def _lookup(word: str, vocabulary: Vocabulary | None) -> Tensor:
    if vocabulary is None:
        raise InputError(f"geometry: looking up the word '{word}' needs a model's vocabulary; give --model")
    tokens = list(vocabulary.tokens)
    token = f"{word.lower()}{WORD_END}"
    if token not in tokens:
        words = (each.removesuffix(WORD_END) for each in tokens if each.endswith(WORD_END))
        raise InputError(
            f"geometry: '{word}' is not one token of the vocabulary{did_you_mean(word.lower(), words)}"
        )
    return vocabulary.table[tokens.index(token)]

"""Maps from one encoder's vectors to another's, learned from tokens that both know. Pure arithmetic."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lab.models.vocabulary import cosines

ALIKE = 0.707
"""SD.Next's least cosine, 45 degrees: of a vector without such a token it takes token 0."""

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Of ridge regression, beside the mean square along the directions that it maps from."""

NEIGHBOURS = (64, 256)
"""Anchors around a vector that a local map is learned from."""


class Anchors(NamedTuple):
    """The same tokens in two encoders' tables: (k, a) and (k, b)."""

    source: Tensor
    target: Tensor

    def without(self, places: Tensor) -> "Anchors":
        """All but those at some places."""
        kept = torch.ones(len(self.source), dtype=torch.bool)
        kept[places] = False
        return Anchors(self.source[kept], self.target[kept])


Map = Callable[[Tensor], Tensor]
"""From vectors (n, a) to vectors (n, b)."""


def nearest_token(anchors: Anchors) -> Map:
    """Takes the token of highest cosine, or the first of all where that is below `ALIKE`."""

    def convert(vectors: Tensor) -> Tensor:
        best, places = cosines(vectors, anchors.source).max(dim=1)
        return anchors.target[places.where(best >= ALIKE, 0)]

    return convert


def ridge(anchors: Anchors, strength: float) -> Map:
    """One linear map for all, about the means: W minimises |x W - y|^2 + s |W|^2."""
    centre, middle = anchors.source.mean(dim=0), anchors.target.mean(dim=0)
    x, y = anchors.source - centre, anchors.target - middle
    few = len(x) < x.shape[1]
    squares = x @ x.T if few else x.T @ x
    squares.diagonal().add_(strength * squares.diagonal().mean() + 1e-12)
    change = x.T @ torch.linalg.solve(squares, y) if few else torch.linalg.solve(squares, x.T @ y)
    return lambda vectors: middle + (vectors - centre) @ change


def local(anchors: Anchors, neighbours: int, strength: float) -> Map:
    """Adds to the linear map for all one for each vector, of what that leaves of the anchors nearest to it."""
    common = ridge(anchors, strength)
    left = anchors.target - common(anchors.source)

    def convert(vectors: Tensor) -> Tensor:
        places = cosines(vectors, anchors.source).topk(min(neighbours, len(left)), dim=1).indices
        found = [
            ridge(Anchors(anchors.source[near], left[near]), 1.0)(vector)
            for near, vector in zip(places, vectors, strict=True)
        ]
        return common(vectors) + torch.stack(found)

    return convert


METHODS: Mapping[str, Sequence[Callable[[Anchors], Map]]] = {
    "nearest token": [nearest_token],
    "ridge": [partial(ridge, strength=strength) for strength in STRENGTHS],
    "local": [
        partial(local, neighbours=count, strength=strength) for count in NEIGHBOURS for strength in STRENGTHS
    ],
}
"""Ways to learn a map from anchors, each with the settings among which words kept apart choose."""


def lost(method: Map, anchors: Anchors, places: Tensor) -> float:
    """The share of the variance of some anchors' target vectors that a map misses: 0 for none, above 1 if their mean
    were nearer."""
    truth = anchors.target[places]
    missing = (method(anchors.source[places]) - truth).square().sum()
    return float(missing / (truth - anchors.target.mean(dim=0)).square().sum())

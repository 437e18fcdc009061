"""Where vectors lie: learned ones beside words, and whole prompts beside each other. Nothing is generated."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lab.analysis.figures import INK, drawing, save_figure
from lab.condition.conditioning import pool_vector
from lab.condition.encode import encode
from lab.embeddings.embedding import Embedding
from lab.embeddings.library import Sources
from lab.errors import InputError, did_you_mean
from lab.files import atomic
from lab.models.bundle import Bundle
from lab.models.vocabulary import Neighbour, Vocabulary, cosines, nearest_tokens, token_text, whole_word

NEAREST = 5
"""Tokens of the vocabulary that are named beside a learned vector."""


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
        words: To be shown beside the vectors; each has to be one token of the vocabulary.

    Raises:
        InputError: nothing to show, vectors of several widths, words without a vocabulary, or a word that is not one
            token of it (with the nearest ones).
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


def prompt_geometry(bundle: Bundle, prompts: Sequence[str], embeddings: Sources = ()) -> Geometry:
    """Whole prompts: the state of each one's end token, of SDXL the pooled vector of its second encoder.

    Args:
        embeddings: What the prompts may name: `Embedding` values, files, folders.

    Raises:
        InputError: no prompts, a prompt that cannot be read, or one that names an embedding which is not there.
    """
    if not prompts:
        raise InputError("geometry: there are no prompts to compare")
    context = bundle.context_length
    pooled = []
    for cond in encode(bundle, list(prompts), embeddings=embeddings):
        pooled.append(pool_vector(cond.first, "eos", context) if cond.pooled is None else cond.pooled)
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
    words = [whole_word(token) for token in vocabulary.tokens]
    if word.lower() not in words:
        nearest = did_you_mean(word.lower(), filter(None, words))
        raise InputError(f"geometry: '{word}' is not one token of the vocabulary{nearest}")
    return vocabulary.table[words.index(word.lower())]


MOST_LABELS = 30
"""Vectors that are labelled one by one; of more, labels would overlap."""

MOST_NUMBERS = 10
"""Vectors whose matrix has its numbers written in."""

BARS = "#2f7fd6"
"""The colour of the norms' bars, light enough to write over."""


def draw_geometries(geometries: Sequence[Geometry]) -> Figure:
    """One row of four plots for each space: cosines, dot products, norms and the map."""
    with drawing(17.0, 4.6 * len(geometries)) as figure:
        rows = figure.subfigures(len(geometries), 1, squeeze=False)[:, 0]
        for row, geometry in zip(rows, geometries, strict=True):
            row.suptitle(geometry.space)
            cosine, dot, norms, points = row.subplots(1, 4)
            _matrix(cosine, "cosine", geometry.cosine, geometry.labels, 1.0)
            _matrix(dot, "dot product", geometry.dot, geometry.labels, float(geometry.dot.abs().max()))
            _norms(norms, geometry)
            _points(points, geometry)
    return figure


def write_geometries(path: Path, geometries: Sequence[Geometry]) -> None:
    """Writes the plots to a .png or .svg file and the numbers to a .json file of the same name.

    Raises:
        InputError: another suffix, or a file that cannot be written.
    """
    save_figure(draw_geometries(geometries), path)
    with atomic(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps([geometry.data() for geometry in geometries]), encoding="utf-8")


def _matrix(axes: Any, title: str, values: Tensor, labels: Sequence[str], top: float) -> None:
    image = axes.imshow(values.numpy(), cmap="RdBu_r", vmin=-top, vmax=top)
    axes.figure.colorbar(image, ax=axes, shrink=0.7)
    axes.set_title(title)
    shown = range(len(labels)) if len(labels) <= MOST_LABELS else []
    axes.set_xticks(shown, [_short(labels[place]) for place in shown], rotation=90)
    axes.set_yticks(shown, [_short(labels[place]) for place in shown])
    if len(labels) <= MOST_NUMBERS:
        for row, line in enumerate(values.tolist()):
            for column, value in enumerate(line):
                ink = "white" if abs(value) > 0.6 * top else "black"
                axes.text(column, row, f"{value:.3g}", ha="center", va="center", color=ink, fontsize=7)


def _norms(axes: Any, geometry: Geometry) -> None:
    places = range(len(geometry.labels))
    axes.barh(places, geometry.norms.numpy(), color=BARS, alpha=0.5)
    axes.set_title("norm, and the nearest tokens" if geometry.nearest else "norm")
    axes.invert_yaxis()
    if len(geometry.labels) > MOST_LABELS:
        return
    axes.set_yticks(places, [_short(label) for label in geometry.labels])
    for place, near in enumerate(geometry.nearest):
        text = " ".join(f"{token_text(token)} {cosine:.2f}" for token, cosine in near[:3])
        axes.text(0, place, f" {text}", va="center", fontsize=7, color=INK)


def _points(axes: Any, geometry: Geometry) -> None:
    points, shares = geometry.principal
    for group in dict.fromkeys(geometry.groups):
        members = [place for place, other in enumerate(geometry.groups) if other == group]
        axes.scatter(*points[members].T.numpy(), label=_short(group), s=18)
    if len(geometry.labels) <= MOST_LABELS:
        for label, (x, y) in zip(geometry.labels, points.tolist(), strict=True):
            axes.annotate(_short(label), (x, y), xytext=(3, 3), textcoords="offset points", fontsize=7)
    if len(set(geometry.groups)) > 1:
        axes.legend()
    axes.set(
        title="map", xlabel=f"first component ({shares[0]:.0%})", ylabel=f"second component ({shares[1]:.0%})"
    )


def _short(text: str, most: int = 18) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"

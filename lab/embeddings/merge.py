"""One embedding out of several."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lab.embeddings.embedding import Embedding, Provenance, check_vectors, vectors_sha256
from lab.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor


def merge(
    embeddings: Sequence[Embedding],
    weights: Sequence[float] | None = None,
    method: str = "average",
    name: str = "merged",
) -> Embedding:
    """Mixes embeddings into one.

    Args:
        weights: One for each embedding, of any sign; by default 1.
        method: `average`: sum_i w_i v_i / sum_i w_i, vector by vector; all need the same number of vectors.
            `concat`: the vectors w_i v_i one after another.

    Raises:
        InputError: fewer than two embeddings, another number of weights, weights that sum to 0, embeddings
            for different encoders, or different numbers of vectors to average.
    """
    if method not in METHODS:
        raise InputError(f"no method '{method}' to merge by{did_you_mean(method, METHODS)}")
    check_counts(len(embeddings), weights)
    weights = [1.0] * len(embeddings) if weights is None else list(weights)
    _check_widths(embeddings)
    elsewhere = next((one.name for one in embeddings if one.outputs or one.layers), None)
    if elsewhere is not None:
        raise InputError(f"'{elsewhere}' goes behind the text encoder or into layers; it cannot be merged")
    vectors = {
        key: METHODS[method]([embedding.vectors[key] for embedding in embeddings], weights)
        for key in embeddings[0].vectors
    }
    vectors = check_vectors(vectors)
    kinds = {embedding.kind for embedding in embeddings}
    models = {embedding.provenance.base_model for embedding in embeddings}
    recipe = ", ".join(f"{one.name} * {weight:g}" for one, weight in zip(embeddings, weights, strict=True))
    provenance = Provenance(
        base_model=models.pop() if len(models) == 1 else None,
        sha256=vectors_sha256(vectors),
        metadata={"modelspec.merged_from": f"{method}: {recipe}"},
    )
    return Embedding(name, vectors, kinds.pop() if len(kinds) == 1 else "unknown", provenance)


def check_counts(embeddings: int, weights: Sequence[float] | None) -> None:
    """Refuses to merge so many embeddings with these weights; their files need not be read yet.

    Raises:
        InputError: fewer than two, or another number of weights.
    """
    if embeddings < 2:
        raise InputError("merging takes at least two embeddings")
    if weights is not None and len(weights) != embeddings:
        raise InputError(f"{embeddings} embeddings and {len(weights)} weights; give one for each")


def _check_widths(embeddings: Sequence[Embedding]) -> None:
    first = embeddings[0]
    for other in embeddings[1:]:
        if other.widths != first.widths:
            raise InputError(
                f"'{first.name}' is for {_describe(first)} and '{other.name}' for {_describe(other)}; "
                "merge embeddings of one model family"
            )


def _average(tensors: "list[Tensor]", weights: Sequence[float]) -> "Tensor":
    import torch

    counts = [len(tensor) for tensor in tensors]
    if len(set(counts)) > 1:
        raise InputError(
            f"cannot average different numbers of vectors, {', '.join(map(str, counts))}; use --method concat"
        )
    total = sum(weights)
    if total == 0:
        raise InputError("the weights sum to 0, which leaves no average; change one of them")
    terms = [tensor.double() * (weight / total) for tensor, weight in zip(tensors, weights, strict=True)]
    return torch.stack(terms).sum(dim=0)


def _concatenate(tensors: "list[Tensor]", weights: Sequence[float]) -> "Tensor":
    import torch

    return torch.cat([tensor * weight for tensor, weight in zip(tensors, weights, strict=True)])


METHODS: "dict[str, Callable[[list[Tensor], Sequence[float]], Tensor]]" = {
    "average": _average,
    "concat": _concatenate,
}
"""Ways to make one embedding of several, by name."""


def _describe(embedding: Embedding) -> str:
    return " + ".join(f"{key} ({width} wide)" for key, width in embedding.widths.items())

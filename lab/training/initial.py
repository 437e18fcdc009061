"""Where learned vectors begin."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lab.embeddings.embedding import Embedding
from lab.embeddings.formats import read_embedding
from lab.errors import InputError
from lab.models.bundle import Bundle, TextTower
from lab.training.learned import vocabulary_norms


@dataclass(frozen=True)
class Initial:
    """First vectors.

    Attributes:
        vectors: (n, width) for each text encoder.
        origins: For each vector, in words, where it comes from.
        text: The initial text, or what stands for it, for the saved file.
    """

    vectors: dict[str, Tensor]
    origins: tuple[str, ...]
    text: str


Nearest = Callable[[int], Sequence[str]]
"""Returns that many words of the vocabulary that say best what the images show."""


def initial_vectors(
    bundle: Bundle, init: str, count: int, generator: torch.Generator, nearest: Nearest | None, word: str
) -> Initial:
    """Makes `count` vectors for each text encoder.

    Args:
        init: `text:WORDS`, `file:EMBEDDING`, `random` or `auto`.
        nearest: Finds the words for `auto`; None if there is no CLIP to find them with.
        word: What `auto` falls back to then.

    Raises:
        InputError: no text, or an embedding of another number of vectors or for another model.
    """
    kind, _, value = init.partition(":")
    if kind == "random":
        return _random(bundle, count, generator)
    if kind == "file":
        return _from_embedding(bundle, value, count)
    if kind == "text":
        return from_text(bundle, value, count)
    return from_text(bundle, " ".join(nearest(count)) if nearest else word, count)


def from_text(bundle: Bundle, text: str, count: int) -> Initial:
    """Spreads the tokens of a text over the vectors.

    Vector i of n takes token floor(i k / n) of k, as the A1111 web UI stretches them; with fewer vectors than
    tokens, it takes the mean of tokens floor(i k / n) up to floor((i + 1) k / n).

    Raises:
        InputError: a text without tokens.
    """
    vectors: dict[str, Tensor] = {}
    origins: tuple[str, ...] = ()
    for tower in bundle.towers:
        ids = tower.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise InputError(f"init: '{text}' holds no token to begin with; write text:WORDS")
        table = tower.encoder.get_input_embeddings().weight.detach().float().cpu()
        groups = [
            ids[i * len(ids) // count : max((i + 1) * len(ids) // count, i * len(ids) // count + 1)]
            for i in range(count)
        ]
        vectors[tower.key] = torch.stack([table[group].mean(dim=0) for group in groups])
        origins = origins or tuple(_spelled(tower, group) for group in groups)
    return Initial(vectors, origins, text)


def _spelled(tower: TextTower, ids: list[int]) -> str:
    return " + ".join(
        token.replace("</w>", " ").strip() or token for token in tower.tokenizer.convert_ids_to_tokens(ids)
    )


def _random(bundle: Bundle, count: int, generator: torch.Generator) -> Initial:
    """Normal vectors, each scaled to the median norm of the vocabulary."""
    vectors = {}
    for tower in bundle.towers:
        rows = torch.randn(count, tower.width, generator=generator)
        vectors[tower.key] = rows / rows.norm(dim=1, keepdim=True) * vocabulary_norms(tower.encoder)[1]
    return Initial(vectors, ("random",) * count, "")


def _from_embedding(bundle: Bundle, path: str, count: int) -> Initial:
    found = read_embedding(path)
    if not isinstance(found, Embedding):
        raise InputError(f"init: {path} holds {len(found)} embeddings; name the file of one")
    widths = {tower.key: tower.width for tower in bundle.towers}
    if found.widths != widths:
        raise InputError(
            f"init: {path} has vectors of widths {found.widths}, but {bundle.source} needs {widths}"
        )
    if found.count != count:
        raise InputError(f"init: {path} has {found.count} vectors; give --vectors {found.count}")
    origins = tuple(f"{found.name}[{row}]" for row in range(count))
    return Initial(dict(found.vectors), origins, f"file:{found.name}")

"""Where learned vectors begin: at words, at a saved embedding, at random, or at what the images show."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.embeddings.read import read_one
from lab.errors import InputError
from lab.models.bundle import Bundle, TextTower
from lab.models.vocabulary import norm_range, token_text, whole_words
from lab.score.clip import Clip, image_features

TEXTS_AT_ONCE = 1024


class Initial(NamedTuple):
    """First vectors.

    Attributes:
        vectors: (n, width) float32 for each text encoder.
        origins: For each vector, in words, where it comes from.
        text: The initial text, or what stands for it, for the saved file.
    """

    vectors: dict[str, Tensor]
    origins: tuple[str, ...]
    text: str


WordFinder = Callable[[int], Sequence[str]]
"""Returns that many words of the vocabulary that say best what the images show."""


def initial_vectors(
    bundle: Bundle, init: str, count: int, generator: torch.Generator, words: WordFinder | str
) -> Initial:
    """Makes `count` vectors for each text encoder.

    Args:
        init: `text:WORDS`, `file:EMBEDDING`, `random` or `auto`.
        generator: For `random`.
        words: For `auto`: what finds the words, or a text if there is no CLIP to find them with.

    Raises:
        InputError: no text, or an embedding of another number of vectors or for another model.
    """
    kind, _, value = init.partition(":")
    if kind == "random":
        return _from_chance(bundle, count, generator)
    if kind == "file":
        return _from_embedding(bundle, value, count)
    if kind == "auto":
        value = words if isinstance(words, str) else " ".join(words(count))
    return initial_from_text(bundle, value, count)


def initial_from_text(bundle: Bundle, text: str, count: int) -> Initial:
    """Spreads the tokens of a text over `count` vectors.

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


def nearest_words(bundle: Bundle, clip: Clip, images: Sequence[Path]) -> WordFinder:
    """A function that gives the n words of the vocabulary whose CLIP text features are nearest the mean of the images'
    CLIP image features."""

    def find(count: int) -> list[str]:
        words = whole_words(bundle.towers[0].tokenizer)
        mean = F.normalize(image_features(clip, images).mean(dim=0), dim=0)
        batches = [words[start : start + TEXTS_AT_ONCE] for start in range(0, len(words), TEXTS_AT_ONCE)]
        cosines = torch.cat([clip.texts(batch) @ mean for batch in batches])
        return [words[place] for place in cosines.topk(min(count, len(words))).indices.tolist()]

    return find


def _spelled(tower: TextTower, ids: list[int]) -> str:
    return " + ".join(token_text(token) or token for token in tower.tokenizer.convert_ids_to_tokens(ids))


def _from_chance(bundle: Bundle, count: int, generator: torch.Generator) -> Initial:
    """Normal vectors, each scaled to the median norm of the vocabulary."""
    vectors = {}
    for tower in bundle.towers:
        rows = torch.randn(count, tower.width, generator=generator)
        vectors[tower.key] = rows / rows.norm(dim=1, keepdim=True) * norm_range(tower.encoder)[1]
    return Initial(vectors, ("random",) * count, "")


def _from_embedding(bundle: Bundle, path: str, count: int) -> Initial:
    found = read_one(path)  # of a pair the half that is named
    widths = {tower.key: tower.width for tower in bundle.towers}
    if found.widths != widths:
        raise InputError(
            f"init: {path} has vectors of widths {found.widths}, but {bundle.source} needs {widths}"
        )
    if found.count != count:
        raise InputError(f"init: {path} has {found.count} vectors; give --vectors {found.count}")
    origins = tuple(f"{found.name}[{row}]" for row in range(count))
    return Initial(dict(found.vectors), origins, f"file:{found.name}")

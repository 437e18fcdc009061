"""The token embeddings of a model's text encoders, and what can be said of vectors beside them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPTokenizer, PreTrainedModel

from lab.models.bundle import Bundle
from lab.models.config import ModelOptions
from lab.models.load import load_options


class Vocabulary(NamedTuple):
    """A text encoder's token embeddings (tokens, width), and the tokens as its tokenizer writes them."""

    table: Tensor
    tokens: Sequence[str]


class Neighbour(NamedTuple):
    """A vocabulary token near a vector, and the cosine between the two."""

    token: str
    cosine: float


def norm_range(encoder: PreTrainedModel) -> tuple[float, float, float]:
    """Smallest, median and largest norm of a text encoder's token embeddings (the median is about 0.4 in CLIP-L)."""
    norms = encoder.get_input_embeddings().weight.detach().float().norm(dim=1)
    return float(norms.min()), float(norms.median()), float(norms.max())


def norm_mean(encoder: PreTrainedModel) -> float:
    """Mean norm of a text encoder's token embeddings (about 0.4 in CLIP-L)."""
    return float(encoder.get_input_embeddings().weight.detach().float().norm(dim=1).mean())


def embedding_rms(encoder: PreTrainedModel) -> float:
    """Root mean square of the values in a text encoder's token embeddings (about 0.014 in CLIP-L)."""
    return float(encoder.get_input_embeddings().weight.detach().float().square().mean().sqrt())


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
    best = cosines(vectors, vocabulary.table).topk(min(count, len(vocabulary.table)), dim=1)
    return [
        [Neighbour(vocabulary.tokens[index], value) for value, index in zip(values, indices, strict=True)]
        for values, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def cosines(vectors: Tensor, others: Tensor | None = None) -> Tensor:
    """(n, m) cosines between the rows of (n, width) and of `others` (m, width), or among the former."""
    unit = F.normalize(vectors, dim=1)
    return unit @ (unit if others is None else F.normalize(others, dim=1)).T


WORD_END = "</w>"
"""How CLIP's tokenizers mark tokens that end a word."""


def token_text(token: str) -> str:
    """A token as it reads in a text, without the mark of a word's end."""
    return token.removesuffix(WORD_END)


def shown_token(token: str) -> str:
    """A token as people read it in a list: a word as it is, a piece that others follow with "..." behind it."""
    return token_text(token) if token.endswith(WORD_END) else f"{token}..."


def whole_word(token: str) -> str | None:
    """The text of a token that ends a word, or None for one that is a word's beginning or middle."""
    return token_text(token) if token.endswith(WORD_END) else None


SHORTEST_WORD = 3
"""Letters; shorter tokens are mostly parts of words."""


def whole_words(tokenizer: CLIPTokenizer, shortest: int = SHORTEST_WORD) -> list[str]:
    """The tokens of CLIP's vocabulary that are words of at least so many letters by themselves, in alphabetic order.

    Letters are a to z: others stand in the vocabulary as bytes, in signs that are no text.
    """
    words = map(whole_word, tokenizer.get_vocab())
    return sorted(
        word for word in words if word and word.isascii() and word.isalpha() and len(word) >= shortest
    )


def read_vocabularies(model: str, variant: str | None) -> dict[str, Vocabulary]:
    """The vocabulary of each text encoder, by the name under which embeddings address it.

    Only text encoders and tokenizers are loaded.

    Raises:
        InputError: no such model, or a damaged one.
    """
    options = ModelOptions(model=model, variant=variant, device="cpu")
    return vocabularies(load_options(options, text_only=True))


def vocabularies(bundle: Bundle) -> dict[str, Vocabulary]:
    """The vocabulary of each text encoder of a model that is loaded, likewise."""
    return {tower.key: _vocabulary(tower.tokenizer, tower.encoder) for tower in bundle.towers}


def _vocabulary(tokenizer: CLIPTokenizer, encoder: PreTrainedModel) -> Vocabulary:
    table = encoder.get_input_embeddings().weight.detach().float().cpu()
    names = tokenizer.convert_ids_to_tokens(range(min(len(tokenizer), len(table))))
    return Vocabulary(table[: len(names)], names)

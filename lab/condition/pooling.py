"""One vector for a prompt, and how near prompts are to each other."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lab.condition.conditioning import Encoding
from lab.condition.config import Pool
from lab.models.vocabulary import cosines


def pool(encoding: Encoding, how: Pool, context: int) -> Tensor:
    """(d,): a prompt's vector.

    Args:
        how: `eos`, the row of the first chunk's end token; `mean` over the rows of words and embeddings; `first`,
            the row of the first of them (the start token's is the same for every prompt). A text without words has
            its end token in all three.
        context: Rows of a chunk.
    """
    rows = sorted({row for span in encoding.spans for row in range(span.start, span.end)})
    end = max((row + 1 for row in rows if row < context), default=1)
    return pool_words(encoding.embeds[rows], encoding.embeds[end], how)


def pool_words(words: Tensor, end: Tensor, how: Pool) -> Tensor:
    """(d,): what stands for a text whose words have the rows (n, d) and whose end token has (d,)."""
    if how == "eos" or not len(words):
        return end
    return words[0] if how == "first" else words.mean(dim=0)


def similarities(vectors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Cosines and dot products of vectors (d,) each, as two (n, n) matrices."""
    stacked = torch.stack(list(vectors))
    return cosines(stacked), stacked @ stacked.T

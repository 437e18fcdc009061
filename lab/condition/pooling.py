"""One vector for a whole text."""

from typing import Literal

import torch
from torch import Tensor

from lab.condition.conditioning import Encoding

Pooling = Literal["eos", "mean", "first"]


def pool(encoding: Encoding, context: int, pooling: Pooling = "eos") -> Tensor:
    """(d,) of an encoding's rows (n, d).

    `eos` is the end token's row, which alone has seen the whole chunk and which CLIP pools by; of several chunks,
    the mean. `mean` is that of the rows of all words and embeddings. `first` is the row of the first of them: the
    start token's row is the same for every text. A text without words is its end token's row in every mode.

    Args:
        context: The text encoder's context length, of which `n` is a multiple.
    """
    rows = [row for span in encoding.spans for row in range(span.start, span.end)]
    if pooling == "eos" or not rows:
        return encoding.embeds[_end_rows(rows, context)].mean(dim=0)
    return encoding.embeds[rows[:1] if pooling == "first" else rows].mean(dim=0)


def _end_rows(rows: list[int], context: int) -> Tensor:
    """The row after the last word of every chunk that has words; the first chunk's where none has."""
    last: dict[int, int] = {}
    for row in rows:
        chunk = row // context
        last[chunk] = max(row, last.get(chunk, row))
    return torch.tensor([row + 1 for row in last.values()] or [1])

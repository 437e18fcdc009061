"""Learned vectors take the place of token embeddings for one call of a text encoder, and leave no trace."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Placement(NamedTuple):
    """Where vectors go: batch entry, first position in it, and the (n, width) vectors."""

    entry: int
    position: int
    vectors: Tensor


@contextmanager
def scattered(encoder: nn.Module, placements: Sequence[Placement]) -> Iterator[None]:
    """Inside the block, `encoder` sees `placements` in place of its own token embeddings.

    A forward hook on the input-embedding module replaces rows of its output: table and tokenizer are never
    resized, and gradients flow into the vectors. The hook is gone when the block ends, however it ends.
    """
    if not placements:
        yield
        return
    entries = torch.tensor([place.entry for place in placements for _ in place.vectors])
    positions = torch.tensor(
        [place.position + row for place in placements for row in range(len(place.vectors))]
    )
    rows = torch.cat([place.vectors for place in placements])

    def put(_module: nn.Module, _arguments: tuple, output: Tensor) -> Tensor:
        index = entries.to(output.device), positions.to(output.device)
        return output.index_put(index, rows.to(output))

    handle = encoder.get_input_embeddings().register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()

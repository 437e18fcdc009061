"""Learned vectors take the place of token embeddings for one call of a text encoder, and leave no trace."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn

from lab.embeddings.embedding import Embedding
from lab.errors import InputError
from lab.models.bundle import Bundle

Vectors = Mapping[str, Mapping[str, Tensor]]
"""Learned vectors by name and by the key of the text encoder that reads them: (n, width) each."""

_FAMILIES = {(768,): "SD 1.x", (1024,): "SD 2.x", (768, 1280): "SDXL"}


class Placement(NamedTuple):
    """Where learned vectors go in a batch of token ids.

    Attributes:
        entries, positions: (k,) each: batch entry and position in it of every row.
        rows: (k, width).
    """

    entries: Tensor
    positions: Tensor
    rows: Tensor


@contextmanager
def scattered(encoder: nn.Module, placement: Placement | None) -> Iterator[None]:
    """Inside the block, `encoder` sees the rows of `placement` in place of its own token embeddings.

    A forward hook on the input-embedding module replaces rows of its output: table and tokenizer are never
    resized, and gradients flow into the rows. The hook is gone when the block ends, however it ends.
    """
    if placement is None:
        yield
        return

    def put(_module: nn.Module, _arguments: tuple, output: Tensor) -> Tensor:
        index = placement.entries.to(output.device), placement.positions.to(output.device)
        return output.index_put(index, placement.rows.to(output))

    table: nn.Module = encoder.get_input_embeddings()  # type: ignore[operator]
    handle = table.register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


def by_name(embeddings: Iterable[Embedding] | Mapping[str, Embedding]) -> Mapping[str, Embedding]:
    """Embeddings by the names that prompts call them; a mapping is one already.

    Raises:
        InputError: two of them have one name.
    """
    if isinstance(embeddings, Mapping):
        return embeddings
    named: dict[str, Embedding] = {}
    for embedding in embeddings:
        if named.setdefault(embedding.name, embedding) is not embedding:
            raise InputError(
                f"two embeddings are called {embedding.name}; rename one with --embedding FILE=name"
            )
    return named


def vectors_for(bundle: Bundle, embedding: Embedding) -> dict[str, Tensor]:
    """An embedding's vectors by the key of each of the bundle's text encoders.

    Raises:
        InputError: it was made for text encoders of other widths.
    """
    widths = tuple(sorted(vectors.shape[-1] for vectors in embedding.vectors.values()))
    needed = tuple(sorted(tower.width for tower in bundle.towers))
    if widths != needed:
        raise InputError(
            f"embedding {embedding.name} is {_described(widths)}, "
            f"the model {bundle.source} takes {_described(needed)}; use one made for this model's family"
        )
    by_width = {vectors.shape[-1]: vectors for vectors in embedding.vectors.values()}
    return {tower.key: embedding.vectors.get(tower.key, by_width[tower.width]) for tower in bundle.towers}


def _described(widths: tuple[int, ...]) -> str:
    family = _FAMILIES.get(widths, "no known family")
    return f"{' + '.join(map(str, widths))} wide ({family})"

"""Learned vectors by the names that prompts call them, and by the text encoder that reads them."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from lab.embeddings.embedding import Embedding
from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.models.family import family_with_widths

Vectors = Mapping[str, Mapping[str, Tensor]]
"""Learned vectors by name and by the key of the text encoder that reads them: (n, width) each."""


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
    traits = family_with_widths(widths)
    return f"{' + '.join(map(str, widths))} wide ({traits.short_label if traits else 'no known family'})"

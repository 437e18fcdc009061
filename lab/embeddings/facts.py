"""What is known of an embedding as a whole, for people, and which models it fits."""

from collections.abc import Iterator

from lab.embeddings.embedding import Embedding, family
from lab.errors import InputError
from lab.models.facts import ModelFacts
from lab.models.family import family_with_widths

CONTEXT = 77
"""Rows of prompt embeddings in every published Stable Diffusion."""


def facts(embedding: Embedding) -> Iterator[tuple[str, str]]:
    """What is known of an embedding as a whole, as labels and values."""
    origin = embedding.provenance
    yield "file", str(origin.path)
    yield "layout", origin.layout
    yield "in prompts", f"<{embedding.name}>"
    yield "internal name", origin.internal_name or "none"
    yield "kind", embedding.kind
    yield "vectors", str(embedding.count)
    yield "widths", ", ".join(f"{key} {width}" for key, width in embedding.widths.items())
    yield "family", family(embedding)
    yield "steps", "unknown" if origin.step is None else str(origin.step)
    yield "base model", origin.base_model or "unknown"
    yield "sha256", origin.sha256
    yield "A1111 hash", embedding.a1111_hash
    if embedding.a1111_checksum:
        yield "A1111 checksum", embedding.a1111_checksum
    for key, value in sorted(origin.metadata.items()):
        yield "metadata", f"{key}: {value}"
    if embedding.count % CONTEXT == 0:
        rows = f"{embedding.count} rows fill the context: prompt embeddings rather than vectors for a prompt"
        yield "note", f"{rows}; give the file by --embeds or --negative-embeds"
    for note in origin.notes:
        yield "note", note


def check_fits(embedding: Embedding, model: ModelFacts) -> None:
    """Refuses a learned embedding that was made for other text encoders, or another U-Net, than the model's.

    Raises:
        InputError: with what both have.
    """
    given, needed = sorted(embedding.widths.values()), sorted(model.widths.values())
    if given != needed:
        raise InputError(
            f"embedding {embedding.name} is {_described(given)}, the model {model.source} takes {_described(needed)}; "
            "use one made for this model's family"
        )
    if embedding.layers and len(embedding.layers) != model.cross_attention_layers:
        raise InputError(
            f"embedding {embedding.name} has vectors for {len(embedding.layers)} layers, as SD 1.x's U-Net has them; "
            f"{model.source}'s has {model.cross_attention_layers}"
        )


def _described(widths: list[int]) -> str:
    traits = family_with_widths(widths)
    return f"{' + '.join(map(str, widths))} wide ({traits.short_label if traits else 'no known family'})"

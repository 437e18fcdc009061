"""Learned rows that take a place behind the text encoders: OneTrainer's output embeddings."""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from lab.condition.chunks import Chunk
from lab.condition.conditioning import AppliedEmbedding
from lab.embeddings.embedding import Embedding
from lab.models.bundle import Bundle


def with_output_rows(
    bundle: Bundle, chunks: Sequence[Chunk], states: Tensor, embeddings: Mapping[str, Embedding]
) -> Tensor:
    """(chunks, context, d): hidden states of a text, weighted already, with the rows of its output embeddings in place.

    As OneTrainer's modules/model/BaseModel.py, `_apply_output_embeddings`: the encoders have seen zeros there. Weights
    do not reach these rows.

    Args:
        states: (chunks, context, d), all text encoders side by side.
    """
    used = {word.embedding for chunk in chunks for word in chunk if word.embedding is not None}
    if not any(embeddings[name].outputs for name in used):
        return states
    states, left = states.clone(), 0
    for index, tower in enumerate(bundle.towers):
        right = left + tower.width
        for place, chunk in enumerate(chunks):
            for word, rows in chunk.rows(index):
                outputs = {} if word.embedding is None else embeddings[word.embedding].outputs
                if outputs:
                    by_width = {each.shape[-1]: each for each in outputs.values()}
                    learned = outputs.get(tower.key, by_width.get(tower.width))
                    if learned is not None:
                        states[place, rows.start : rows.stop, left:right] = learned[word.skipped :][
                            : len(rows)
                        ]
        left = right
    return states


def use_notes(applied: Sequence[AppliedEmbedding], embeddings: Mapping[str, Embedding]) -> Iterator[str]:
    """Says where a weight does nothing to an embedding, or not what one thinks, and where a part of it is not used, one
    line each."""
    for name in dict.fromkeys(use.name for use in applied):
        if foreign := embeddings[name].foreign:
            yield f"<{name}>: made for another family; of it the CLIP half alone is used, not {', '.join(foreign)}"
    for use in applied:
        if use.weight != 1 and embeddings[use.name].outputs:
            yield (
                f"<{use.name}>: its rows are put in behind the text encoder, after all weights; {use.weight:g} "
                "does nothing to them"
            )
        if use.weight < 0 and embeddings[use.name].kind == "slider":
            yield (
                f"<{use.name}>: a slider acts from weight 0 up, and {use.weight:g} does not turn it round; learn one "
                "with --from and --to exchanged"
            )

"""Learned vectors that act elsewhere than in front of the text encoders: rows behind them (OneTrainer's output
embeddings), and others for each cross-attention layer (P+, 2303.09522; kohya's XTI).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from lab.condition.chunks import Chunk
from lab.condition.conditioning import AppliedEmbedding, Conditioning, Encoding, Part
from lab.embeddings.embedding import XTI_LAYERS, Embedding
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


def with_layers(
    whole: Conditioning,
    embeddings: Mapping[str, Embedding],
    encode: Callable[[Mapping[str, Embedding]], Conditioning],
) -> Conditioning:
    """A prompt whose encodings have `layers` where it names an embedding that has; else itself.

    As kohya's gen_img_diffusers.py does: the text is encoded once for each layer, with that layer's vectors.

    Args:
        embeddings: All that the prompt may name.
        encode: The same prompt with others in their place.
    """
    used = {use.name for use in whole.applied if embeddings[use.name].layers}
    if not used:
        return whole
    others = {
        layer: encode({**embeddings, **{name: embeddings[name].at_layer(layer) for name in used}})
        for layer in XTI_LAYERS
    }
    made: dict[Encoding, Encoding] = {}
    for number, part in enumerate(whole.parts):
        for place, (_, entry) in enumerate(part.entries):
            own = {layer: other.parts[number].entries[place][1] for layer, other in others.items()}
            made[entry] = _layered(entry, own)

    def layered(part: Part) -> Part:
        return part.map(made.__getitem__)

    return replace(whole, parts=tuple(map(layered, whole.parts)))


def _layered(entry: Encoding, others: Mapping[str, Encoding]) -> Encoding:
    negated = {layer: other.negated for layer, other in others.items() if other.negated is not None}
    return replace(
        entry,
        layers={layer: other.embeds for layer, other in others.items()},
        negated=_layered(entry.negated, negated) if entry.negated is not None else None,
    )


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

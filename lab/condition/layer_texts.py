"""Texts that each cross-attention layer reads with learned vectors of its own: P+ (2303.09522), kohya's XTI."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from lab.condition.conditioning import Conditioning, Encoding, Part
from lab.embeddings.embedding import XTI_LAYERS, Embedding


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

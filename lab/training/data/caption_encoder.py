"""Captions through the text encoders: as chunks, as prompt embeddings, and whether they name what is learned."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from lab.condition.chunks import Chunk, first_chunk
from lab.condition.conditioning import TokenSpan, token_spans
from lab.condition.learned_places import with_output_rows
from lab.condition.tokens import Tokenizer
from lab.condition.towers import EncodedChunks, encode_chunks, vectors_for
from lab.embeddings.embedding import XTI_LAYERS, Embedding
from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.models.device import to_device
from lab.prompt.syntax import Run, Segment
from lab.training.data.captions import placeholder, split_at_placeholders


class EncodedCaptions(NamedTuple):
    """Captions, encoded.

    Attributes:
        embeds: (b, context, d) prompt embeddings.
        pooled: (b, p) SDXL's pooled ones, or None.
        layers: Other embeds for each of `XTI_LAYERS`, where an embedding in them has vectors of its own there.
    """

    embeds: Tensor
    pooled: Tensor | None
    layers: Sequence[Tensor] = ()


class CaptionEncoder:
    """Encodes captions of one chunk; what a caption has beyond the text encoder's context is cut off.

    A caption is plain text: nothing in it means anything but the placeholders `<name>`.
    """

    def __init__(self, bundle: Bundle, embeddings: Mapping[str, Embedding], clip_skip: int = 0):
        """Takes what placeholders stand for.

        Args:
            embeddings: By name, with their tensors on the bundle's device; gradients go back to these.
            clip_skip: Leaves out this many of the text encoder's last layers.
        """
        self._bundle = bundle
        self._clip_skip = clip_skip
        self._chunker = CaptionChunker(bundle, vector_counts(embeddings))
        self.embeddings = embeddings
        self._at_layers = [
            {name: one.at_layer(layer) if one.layers else one for name, one in embeddings.items()}
            for layer in XTI_LAYERS
        ]

    def __call__(self, captions: Sequence[str]) -> EncodedCaptions:
        """Encodes captions, each distinct one once."""
        distinct = list(dict.fromkeys(captions))
        chunks = [self._chunker(caption) for caption in distinct]
        places = torch.tensor([distinct.index(caption) for caption in captions])
        index = to_device(places, self._bundle.device)
        named = {word.embedding for chunk in chunks for word in chunk if word.embedding is not None}
        if any(self.embeddings[name].layers for name in named):
            layers = [self._encoded(chunks, each)[0][index] for each in self._at_layers]
            return EncodedCaptions(layers[0], None, layers)  # no layer is left to read the first
        states, pooled = self._encoded(chunks, self.embeddings)
        return EncodedCaptions(states[index], None if pooled is None else pooled[index])

    def _encoded(self, chunks: Sequence[Chunk], embeddings: Mapping[str, Embedding]) -> EncodedChunks:
        vectors = {name: vectors_for(self._bundle, one, elsewhere=True) for name, one in embeddings.items()}
        encoded = encode_chunks(self._bundle, chunks, vectors, self._clip_skip)
        return encoded._replace(states=with_output_rows(self._bundle, chunks, encoded.states, embeddings))

    def spans(self, caption: str) -> tuple[TokenSpan, ...]:
        """What the rows of a caption's prompt embeddings stand for."""
        return tuple(token_spans([self._chunker(caption)], self._bundle.context_length))


class CaptionChunker:
    """Turns captions into the first chunk of their tokens, each distinct one once."""

    def __init__(self, bundle: Bundle, counts: Mapping[str, int], room: int | None = None):
        """Takes the number of vectors of each embedding that captions may name, and how many tokens a chunk holds: by
        default what the text encoders take."""
        self._room = room or bundle.context_length - 2
        self._tokenizer = Tokenizer(bundle, counts.__getitem__)
        self._names_by_placeholder = {placeholder(name): name for name in counts}
        self._chunks: dict[str, Chunk] = {}

    def __call__(self, caption: str) -> Chunk:
        """The caption's tokens, with the embeddings in their places."""
        if caption not in self._chunks:
            (words,) = self._tokenizer.words(self._segments(caption))
            self._chunks[caption] = first_chunk(words, self._room)
        return self._chunks[caption]

    def _segments(self, caption: str) -> list[Segment]:
        segments, start = [], 0
        for text, name in split_at_placeholders(caption, self._names_by_placeholder):
            span, run = (start, start + len(text)), Run(0, start, len(text))
            segments.append(Segment(name or text, 1.0, span, "embedding" if name else "text", (run,)))
            start += len(text)
        return segments


def embeddings_named(
    bundle: Bundle, texts: Iterable[str], embeddings: Mapping[str, Embedding]
) -> dict[str, Embedding]:
    """Those embeddings whose placeholders stand in any of the texts, on the bundle's device.

    Raises:
        InputError: one that was made for another family of models.
    """
    texts = list(texts)
    names = [name for name in embeddings if any(placeholder(name) in text for text in texts)]
    found = {}
    for name in names:
        vectors = vectors_for(bundle, embeddings[name])
        there = {key: rows.to(bundle.device) for key, rows in vectors.items()}
        found[name] = replace(embeddings[name], vectors=there)
    return found


def vector_counts(embeddings: Mapping[str, Embedding]) -> dict[str, int]:
    """The number of vectors of each embedding, by its name."""
    return {name: embedding.count for name, embedding in embeddings.items()}


def check_placeholders(
    bundle: Bundle,
    captions: Iterable[tuple[str, str]],
    counts: Mapping[str, int],
    others: Mapping[str, Embedding],
    names: Sequence[str],
) -> None:
    """Checks that captions name what is learned, within the text encoder's context.

    Args:
        captions: Final captions, each with the name of an image that it comes with.
        counts: The number of vectors of each embedding that is learned.
        others: Embeddings that captions may name as well.
        names: Of those that are learned, the ones that every caption has to name.

    Raises:
        InputError: captions without a placeholder, or that lose it where the text encoder's context ends.
    """
    chunker = CaptionChunker(bundle, vector_counts(others) | dict(counts))
    missing: dict[str, str] = {}
    cut = False
    for caption, image in captions:
        found = {word.embedding for word in chunker(caption)}
        for name in names:
            if name not in found:
                missing.setdefault(image, f"{placeholder(name)} in '{caption[:80]}'")
                cut = cut or placeholder(name) in caption
    if missing:
        images = list(missing)
        more = f" and {len(images) - 3} more" if len(images) > 3 else ""
        why = "; it is cut off at the end of the text encoder's context" if cut else ""
        raise InputError(
            f"captions: {', '.join(images[:3])}{more}: without {missing[images[0]]}{why}; every caption has to name "
            "what is learned"
        )

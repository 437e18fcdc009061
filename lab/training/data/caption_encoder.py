"""Captions to prompt embeddings, with learned vectors where captions name them."""

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from lab.condition.chunks import Chunk, first_chunk
from lab.condition.tokens import Tokenizer
from lab.condition.towers import Vectors, encode_chunks, vectors_for
from lab.embeddings.embedding import Embedding
from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.prompt.syntax import Run, Segment
from lab.training.data.captions import placeholder


class CaptionEncoder:
    """Encodes captions of one chunk; what a caption has beyond the text encoder's context is cut off.

    A caption is plain text: nothing in it means anything but the placeholders `<name>`.
    """

    def __init__(self, bundle: Bundle, vectors: Vectors, clip_skip: int = 0):
        """Takes what placeholders stand for.

        Args:
            vectors: By name and text encoder, (n, width) on the bundle's device; gradients go back to them.
            clip_skip: Leaves out this many of the text encoder's last layers.
        """
        self._bundle = bundle
        self._vectors = vectors
        self._clip_skip = clip_skip
        self._chunker = CaptionChunker(bundle, vector_counts(vectors))

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Prompt embeddings (b, context, d) and SDXL's pooled ones (b, p) or None; each distinct caption is encoded
        once."""
        distinct = list(dict.fromkeys(captions))
        chunks = [self._chunker(caption) for caption in distinct]
        encoded = encode_chunks(self._bundle, chunks, self._vectors, self._clip_skip)
        index = torch.tensor([distinct.index(caption) for caption in captions], device=self._bundle.device)
        pooled = None if encoded.pooled is None else encoded.pooled[index]
        return encoded.states[index], pooled


class CaptionChunker:
    """Turns captions into the first chunk of their tokens, each distinct one once."""

    def __init__(self, bundle: Bundle, counts: Mapping[str, int]):
        """Takes the number of vectors of each embedding that captions may name."""
        self._room = bundle.context_length - 2
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


def split_at_placeholders(
    caption: str, names_by_placeholder: Mapping[str, str]
) -> list[tuple[str, str | None]]:
    """Cuts a caption into (text, None) and (placeholder, name) in order; everything else in it is plain text.

    Args:
        names_by_placeholder: The names by their placeholders.
    """
    pattern = "|".join(re.escape(text) for text in sorted(names_by_placeholder, key=len, reverse=True))
    pieces = re.split(f"({pattern})", caption)
    return [(piece, names_by_placeholder.get(piece)) for piece in pieces if piece]


def vectors_named(bundle: Bundle, texts: Iterable[str], embeddings: Mapping[str, Embedding]) -> Vectors:
    """The vectors of those embeddings whose placeholders stand in any of the texts, on the bundle's device.

    Raises:
        InputError: one that was made for another family of models.
    """
    texts = list(texts)
    names = [name for name in embeddings if any(placeholder(name) in text for text in texts)]
    return {
        name: {key: rows.to(bundle.device) for key, rows in vectors_for(bundle, embeddings[name]).items()}
        for name in names
    }


def vector_counts(vectors: Vectors) -> dict[str, int]:
    """The number of vectors of each embedding."""
    return {name: len(next(iter(encoders.values()))) for name, encoders in vectors.items()}


def check_placeholders(
    bundle: Bundle,
    captions: Iterable[tuple[str, str]],
    counts: Mapping[str, int],
    others: Vectors,
) -> None:
    """Checks that captions name what is learned, within the text encoder's context.

    Args:
        captions: Final captions, each with the name of an image that it comes with.
        counts: The number of vectors of each embedding that is learned.
        others: Embeddings that captions may name as well.

    Raises:
        InputError: captions without a placeholder, or that lose it where the text encoder's context ends.
    """
    chunker = CaptionChunker(bundle, vector_counts(others) | dict(counts))
    missing: dict[str, str] = {}
    cut = False
    for caption, image in captions:
        found = {word.embedding for word in chunker(caption)}
        for name in counts:
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

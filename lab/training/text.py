"""Captions into chunks of tokens and placeholders, and those into what conditions the U-Net, with gradients."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from lab.condition.layout import Chunk, first_chunk
from lab.condition.tokens import Tokenizer
from lab.condition.towers import encode_chunks
from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.prompt.syntax import Run, Segment
from lab.training.captions import placeholder, split_at_placeholders
from lab.training.learned import Learned


class CaptionEncoder:
    """Encodes captions of one chunk; what a caption has beyond the text encoder's context is cut off."""

    def __init__(self, bundle: Bundle, learned: Learned, clip_skip: int = 0):
        self._bundle = bundle
        self._learned = learned
        self._clip_skip = clip_skip
        self._chunker = Chunker(
            bundle, {name: len(next(iter(rows.values()))) for name, rows in learned.rows.items()}
        )

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Prompt embeddings (b, context, d) and pooled ones (b, p) or None; each distinct caption is encoded once."""
        distinct = list(dict.fromkeys(captions))
        chunks = [self._chunker(caption) for caption in distinct]
        hidden = encode_chunks(self._bundle, chunks, self._learned.rows, self._clip_skip)
        index = torch.tensor([distinct.index(caption) for caption in captions], device=self._bundle.device)
        pooled = None if hidden.pooled is None else hidden.pooled[index]
        return hidden.joined[index], pooled


class Chunker:
    """Captions to the first chunk of their tokens, each distinct one once.

    Args:
        counts: The number of vectors of each embedding.
    """

    def __init__(self, bundle: Bundle, counts: Mapping[str, int]):
        self._room = min(tower.context_length for tower in bundle.towers) - 2
        self._tokenizer = Tokenizer(bundle, counts)
        self._marks = {placeholder(name): name for name in counts}
        self._chunks: dict[str, Chunk] = {}

    def __call__(self, caption: str) -> Chunk:
        """The caption's tokens, with the embeddings in their places."""
        if caption not in self._chunks:
            pieces = self._tokenizer.pieces(self._segments(caption))
            self._chunks[caption] = first_chunk(pieces, self._room)
        return self._chunks[caption]

    def _segments(self, caption: str) -> list[Segment]:
        segments, start = [], 0
        for text, name in split_at_placeholders(caption, self._marks):
            kind: Literal["embedding", "text"] = "embedding" if name else "text"
            run = Run(0, start, len(text))
            segments.append(Segment(name or text, 1.0, (start, start + len(text)), kind, (run,)))
            start += len(text)
        return segments


def check_placeholders(
    bundle: Bundle, captions: Iterable[tuple[str, str]], counts: Mapping[str, int]
) -> None:
    """Checks final captions, given with their images' names.

    Raises:
        InputError: captions without a placeholder, or that lose it where the text encoder's context ends.
    """
    chunker = Chunker(bundle, counts)
    missing: dict[str, str] = {}
    cut = False
    for caption, image in captions:
        found = {piece.embedding for piece in chunker(caption)}
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

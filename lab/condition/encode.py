"""Prompts and learned embeddings in, `Conditioning` out."""

from collections.abc import Sequence
from dataclasses import replace
from typing import overload

import torch
from torch import Tensor

from lab.condition.conditioning import Conditioning, Encoding, Part
from lab.condition.options import Dialect, TextOptions, Weighting
from lab.condition.tokens import Chunk, lay_out, tokenize
from lab.condition.towers import encode_chunks
from lab.embeddings.embedding import Embedding
from lab.models.bundle import Bundle

BATCH = 32
"""Chunks encoded together."""


@overload
def encode(
    bundle: Bundle, prompt: str, embeddings: Sequence[Embedding] = ..., *, steps: int | None = ...
) -> Conditioning: ...
@overload
def encode(
    bundle: Bundle, prompt: Sequence[str], embeddings: Sequence[Embedding] = ..., *, steps: int | None = ...
) -> list[Conditioning]: ...
def encode(
    bundle: Bundle,
    prompt: str | Sequence[str],
    embeddings: Sequence[Embedding] = (),
    dialect: Dialect = "a1111",
    weighting: Weighting | None = None,
    clip_skip: int = 0,
    steps: int | None = 20,
    bare_names: bool = False,
    comma_backtrack: int = 20,
) -> Conditioning | list[Conditioning]:
    """Turns prompts into prompt embeddings. A string gives one, a sequence a list."""
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    made = _encode_texts(bundle, prompts, clip_skip)
    conds = [Conditioning(text, (Part(1.0, ((steps or 20, made[text]),)),)) for text in prompts]
    return conds[0] if isinstance(prompt, str) else conds


def encode_pairs(
    bundle: Bundle,
    pairs: Sequence[tuple[str, str | None]],
    embeddings: Sequence[Embedding],
    options: TextOptions,
    steps: int,
) -> list[tuple[Conditioning, Conditioning]]:
    """Encodes prompts with their negative prompts, both sides of a pair padded to the same length.

    Each distinct text is encoded once. Padding is chunks of the encoded empty text, as in the A1111 web UI, and
    depends on the pair alone. A negative of None is SDXL's convention: zeros where the model says so
    (`force_zeros_for_empty_prompt`), else the encoded empty text; "" is always encoded.
    """
    zeros = bundle.force_zeros_for_empty_prompt
    texts = ["", *(text for pair in pairs for text in pair if text is not None)]
    made = _encode_texts(bundle, texts, options.clip_skip)
    empty = made[""]

    def conditioning(text: str | None) -> Conditioning:
        return Conditioning(text or "", (Part(1.0, ((steps, made[text or ""]),)),))

    result = []
    for positive, negative in pairs:
        sides = conditioning(positive), conditioning(negative)
        rows = max(_rows(side) for side in sides)
        first, second = (_mapped(side, lambda entry: _padded(entry, empty, rows)) for side in sides)
        if negative is None and zeros:
            second = _mapped(second, _zeroed)
        result.append((first, second))
    return result


def _rows(conditioning: Conditioning) -> int:
    return max(len(entry.embeds) for part in conditioning.parts for _, entry in part.entries)


def _mapped(conditioning: Conditioning, change) -> Conditioning:  # type: ignore[no-untyped-def]
    parts = (
        replace(part, entries=tuple((until, change(entry)) for until, entry in part.entries))
        for part in conditioning.parts
    )
    return replace(conditioning, parts=tuple(parts))


def _padded(encoding: Encoding, empty: Encoding, rows: int) -> Encoding:
    missing = (rows - len(encoding.embeds)) // len(empty.embeds)
    return (
        replace(encoding, embeds=torch.cat([encoding.embeds, *[empty.embeds] * missing]))
        if missing
        else encoding
    )


def _zeroed(encoding: Encoding) -> Encoding:
    pooled = None if encoding.pooled is None else torch.zeros_like(encoding.pooled)
    return replace(encoding, embeds=torch.zeros_like(encoding.embeds), pooled=pooled)


@torch.no_grad()
def _encode_texts(bundle: Bundle, texts: Sequence[str], clip_skip: int) -> dict[str, Encoding]:
    distinct = list(dict.fromkeys(texts))
    room = min(tower.context_length for tower in bundle.towers) - 2
    laid_out = [lay_out(pieces, room) for pieces in tokenize(bundle, distinct)]
    chunks = list(dict.fromkeys(chunk for text in laid_out for chunk in text))
    rows: dict[Chunk, tuple[Tensor, Tensor | None]] = {}
    for start in range(0, len(chunks), BATCH):
        batch = chunks[start : start + BATCH]
        hidden = encode_chunks(bundle, batch, clip_skip=clip_skip)
        joined = hidden.joined.float().cpu()
        pooled = [None] * len(batch) if hidden.pooled is None else hidden.pooled.float().cpu()
        rows.update(zip(batch, zip(joined, pooled, strict=True), strict=True))
    return {
        text: Encoding(text, torch.cat([rows[chunk][0] for chunk in of_text]), rows[of_text[0]][1])
        for text, of_text in zip(distinct, laid_out, strict=True)
    }

"""Text into tokens, and tokens into chunks that the text encoders take."""

from collections.abc import Sequence
from dataclasses import dataclass

from lab.errors import InputError
from lab.models.bundle import Bundle, TextTower

PLACEHOLDER_ID = 0
"""Stands in a chunk's ids where learned vectors go (as in the A1111 web UI); its own embedding is never seen."""


@dataclass(frozen=True)
class Piece:
    """What a chunk never splits: a word's tokens or an embedding's vectors.

    Attributes:
        text: The word as the prompt has it, or the embedding's name.
        ids: Token ids; `PLACEHOLDER_ID` for each vector of an embedding.
        source: Characters `source[0]:source[1]` of the prompt that it came from.
        weight: The weight in force, 1.0 for none.
        embedding: The name of the learned embedding, or None for words.
    """

    text: str
    ids: tuple[int, ...]
    source: tuple[int, int]
    weight: float = 1.0
    embedding: str | None = None


Chunk = tuple[Piece, ...]


def tokenize(bundle: Bundle, texts: Sequence[str]) -> list[list[Piece]]:
    """Splits each text into words with their token ids; `source` counts in the text itself.

    Raises:
        InputError: the bundle's tokenizers cut a text differently, so that its encoders' rows cannot be paired.
    """
    if not texts:
        return []
    first, *others = (tower.tokenizer for tower in bundle.towers)
    encoded = first(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    for other in others:
        if other(list(texts), add_special_tokens=False, verbose=False)["input_ids"] != encoded["input_ids"]:
            raise InputError(f"{bundle.source}: its two tokenizers give different tokens for the same text")
    rows = zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return [_words(text, ids, offsets) for text, ids, offsets in rows]


def _words(text: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> list[Piece]:
    pieces: list[Piece] = []
    first = 0
    for position in range(1, len(ids) + 1):
        if position < len(ids) and _glued(text, offsets[position - 1], offsets[position]):
            continue
        start, end = offsets[first][0], offsets[position - 1][1]
        pieces.append(Piece(text[start:end], tuple(ids[first:position]), (start, end)))
        first = position
    return pieces


def _glued(text: str, left: tuple[int, int], right: tuple[int, int]) -> bool:
    """Whether two neighbouring tokens belong to one word: `cat|'s`, `fire|-|breathing`, `2|0|4|8`."""
    if right[0] < left[1]:  # bytes of one character
        return True
    return right[0] == left[1] and _in_word(text[left[1] - 1]) and _in_word(text[right[0]])


def _in_word(character: str) -> bool:
    return character.isalnum() or character in "'’-_"


def lay_out(pieces: Sequence[Piece], room: int) -> list[Chunk]:
    """Fills chunks of `room` tokens (start and end not counted), never splitting a piece that fits in one."""
    chunks: list[list[Piece]] = [[]]
    used = 0
    for piece in pieces:
        if used + len(piece.ids) > room:
            chunks.append([])
            used = 0
        chunks[-1].append(piece)
        used += len(piece.ids)
    return [tuple(chunk) for chunk in chunks]


def chunk_ids(chunk: Chunk, tower: TextTower) -> list[int]:
    """(context_length,) token ids: start token, the chunk's tokens, end token, the encoder's own padding."""
    ids = [tower.tokenizer.bos_token_id]
    for piece in chunk:
        ids.extend(piece.ids)
    ids.append(tower.tokenizer.eos_token_id)
    return ids + [tower.pad_token_id] * (tower.context_length - len(ids))

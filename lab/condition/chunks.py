"""What the rows of the prompt embeddings stand for."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from lab.condition.conditioning import AppliedEmbedding, TokenSpan
from lab.condition.tokens import Break, Piece
from lab.embeddings.embedding import Embedding
from lab.errors import InputError
from lab.models.bundle import TextTower
from lab.prompt.syntax import Dialect

Chunk = tuple[Piece, ...]
Split = Callable[[Sequence[Piece], Piece, int], int]
"""(a chunk's pieces, the piece that does not fit, room) -> how many of the pieces stay; the others move on."""


def keep_all(chunk: Sequence[Piece], piece: Piece, room: int) -> int:
    """ComfyUI: a word that does not fit begins the next chunk."""
    return len(chunk)


def back_to_comma(chunk: Sequence[Piece], piece: Piece, room: int, reach: int) -> int:
    """The A1111 web UI: what follows the last comma moves along if that comma is at most `reach` tokens back.

    Not before a comma, and before an embedding only if the chunk is full.
    """
    if piece.text == "," or (piece.embedding is not None and _length(chunk) < room):
        return len(chunk)
    comma = _last(chunk, ",")
    if comma is None or room - _length(chunk[:comma]) > reach:
        return len(chunk)
    return comma + 1


def back_to_sentence(chunk: Sequence[Piece], piece: Piece, room: int) -> int:
    """compel: the chunk ends after its last full stop, else after `,` `;` or `:`, else after a word."""
    end = _last(chunk, ".")
    if end is None:
        end = _last(chunk, ",", ";", ":")
    return len(chunk) if end is None else end + 1


def split_rule(dialect: Dialect, comma_backtrack: int) -> Split:
    """How chunks end in a dialect."""
    if dialect == "compel":
        return back_to_sentence
    if dialect == "comfy" or comma_backtrack == 0:
        return keep_all
    return partial(back_to_comma, reach=comma_backtrack)


def lay_out(pieces: Iterable[Piece | Break], room: int, split: Split) -> list[Chunk]:
    """Fills chunks of `room` tokens, start and end not counted; at least one chunk, which may be empty.

    A word that is longer than a chunk is cut, as there is no other way.

    Raises:
        InputError: an embedding is longer than a chunk.
    """
    chunks: list[list[Piece]] = [[]]
    used = 0
    for piece in pieces:
        if isinstance(piece, Break):
            chunks.append([])
            used = 0
            continue
        for part in _cut(piece, room):
            while used + part.length > room:
                stay = split(chunks[-1], part, room)
                moved = chunks[-1][stay:]
                del chunks[-1][stay:]
                chunks.append(moved)
                used = _length(moved)
            chunks[-1].append(part)
            used += part.length
    if len(chunks) > 1 and not chunks[-1]:
        chunks.pop()  # after a closing BREAK
    return [tuple(chunk) for chunk in chunks]


def first_chunk(pieces: Iterable[Piece | Break], room: int) -> Chunk:
    """The first `room` tokens; a word is cut where they end, an embedding is left out."""
    chunk: list[Piece] = []
    left = room
    for piece in pieces:
        if not left or isinstance(piece, Break) or (piece.embedding is not None and piece.length > left):
            break
        chunk.append(replace(piece, ids=tuple(ids[:left] for ids in piece.ids)))
        left -= chunk[-1].length
    return tuple(chunk)


def chunk_ids(chunk: Chunk, tower: TextTower, index: int) -> list[int]:
    """(context_length,) token ids: start token, the chunk's tokens, end token, the encoder's own padding.

    Args:
        index: Which of the model's text encoders `tower` is.
    """
    ids = [tower.tokenizer.bos_token_id]
    for piece in chunk:
        ids.extend(piece.ids[index])
    ids.append(tower.tokenizer.eos_token_id)
    return ids + [tower.pad_token_id] * (tower.context_length - len(ids))


def _cut(piece: Piece, room: int) -> list[Piece]:
    if piece.length <= room:
        return [piece]
    if piece.embedding is not None:
        raise InputError(
            f"embedding {piece.text}: its {piece.length} vectors do not fit in a chunk of {room} tokens"
        )
    return [
        replace(piece, ids=tuple(ids[at : at + room] for ids in piece.ids))
        for at in range(0, piece.length, room)
    ]


def _length(chunk: Sequence[Piece]) -> int:
    return sum(piece.length for piece in chunk)


def _last(chunk: Sequence[Piece], *signs: str) -> int | None:
    for index in range(len(chunk) - 1, -1, -1):
        if chunk[index].text in signs and chunk[index].embedding is None:
            return index
    return None


def token_spans(chunks: Sequence[Chunk], context: int, first_row: int = 0) -> tuple[TokenSpan, ...]:
    """The spans of a text's pieces; its chunks take `context` rows each, from `first_row` on.

    Rows are the first encoder's where SDXL's second one sees another number of tokens.
    """
    spans = []
    for index, chunk in enumerate(chunks):
        row = first_row + index * context + 1  # after the start token
        for piece in chunk:
            end = row + len(piece.ids[0])
            spans.append(TokenSpan(piece.text, row, end, piece.source, piece.weight, piece.embedding))
            row = end
    return tuple(spans)


def applied_embeddings(
    spans: Sequence[TokenSpan], embeddings: Mapping[str, Embedding]
) -> tuple[AppliedEmbedding, ...]:
    """Each use of a learned embedding, in order."""
    return tuple(
        AppliedEmbedding(
            name=span.embedding,
            vectors=span.end - span.start,
            positions=tuple(range(span.start, span.end)),
            weight=span.weight,
            sha256=embeddings[span.embedding].provenance.sha256,
        )
        for span in spans
        if span.embedding is not None
    )

"""Chunks of words, as many as a text encoder reads at once, and what each row of its output stands for."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from lab.condition.conditioning import AppliedEmbedding, TokenSpan
from lab.condition.tokens import Word
from lab.errors import InputError
from lab.prompt.chunk_rules import SplitRule, count_tokens

if TYPE_CHECKING:
    from torch import Tensor

    from lab.embeddings.embedding import Embedding
    from lab.models.bundle import TextTower


class Chunk(tuple[Word, ...]):
    """The words that a text encoder reads at once.

    Its rows, those of the encoder's output, are the start token, the words' tokens, the end token and padding.
    """

    __slots__ = ()

    @property
    def length(self) -> int:
        """Tokens, start and end not counted."""
        return count_tokens(self)

    @property
    def seen(self) -> tuple:
        """What of it the text encoders see: chunks that are equal in this have equal hidden states."""
        return tuple((word.ids, word.embedding, word.embedding and word.skipped) for word in self)

    def rows(self, encoder: int = 0) -> Iterator[tuple[Word, range]]:
        """Each word with its rows; row 0 is the start token's.

        Args:
            encoder: Which of the model's text encoders: SDXL's second may see another number of tokens.
        """
        row = 1
        for word in self:
            end = row + len(word.ids[encoder])
            yield word, range(row, end)
            row = end

    def token_ids(self, tower: "TextTower", encoder: int) -> list[int]:
        """(context_length,) ids: start token, the words' tokens, end token, the encoder's own padding.

        Args:
            encoder: Which of the model's text encoders `tower` is.
        """
        ids = [tower.tokenizer.bos_token_id]
        for word in self:
            ids += word.ids[encoder]
        ids.append(tower.tokenizer.eos_token_id)
        return ids + [tower.pad_token_id] * (tower.context_length - len(ids))

    def row_weights(self, encoder: int, context: int) -> list[float]:
        """(context,) weights; 1 for start, end and padding."""
        weights = [1.0] * context
        for word, rows in self.rows(encoder):
            weights[rows.start : rows.stop] = [word.weight] * len(rows)
        return weights


@dataclass(frozen=True)
class EncodedText:
    """A text's chunks as one encoder sees them: what weight arithmetic works on.

    Attributes:
        z: (chunks, context, width) float32 hidden states of the text.
        e: (context, width) float32 hidden states of an empty chunk.
        w: (chunks, context) float32 weights, 1 for start, end, padding and unweighted tokens.
        ids: (chunks, context) token ids; those of learned vectors are past the vocabulary's end.
        fragments: Each run of tokens under one weight, in order, with that weight.
        special_ids: The encoder's start, end and padding tokens.
        encode: (ids (b, context), mask (b, context) of ones and zeros) to hidden states (b, context, width).
    """

    z: "Tensor"
    e: "Tensor"
    w: "Tensor"
    ids: "Tensor"
    fragments: Sequence[tuple[Sequence[int], float]]
    special_ids: tuple[int, int, int]
    encode: "Callable[[Tensor, Tensor], Tensor]"


def fill_chunks(
    stretches: Iterable[Sequence[Word]],
    room: int,
    split: SplitRule,
    comma_backtrack: int = 20,
    keep_words: bool = False,
) -> list[Chunk]:
    """Fills chunks of `room` tokens, start and end not counted; at least one chunk, which may be empty.

    A word that is longer than a chunk is cut, as there is no other way.

    Args:
        stretches: Words that may share a chunk; each stretch begins one (`Tokenizer.words`).
        split: The dialect's rule for where a full chunk ends.
        comma_backtrack: How far back the rule may look for a comma, in tokens.
        keep_words: Cuts no word that fits in a chunk, whatever the rule says.

    Raises:
        InputError: an embedding is longer than a chunk and may not be cut.
    """
    chunks: list[list[Word]] = []
    for words in stretches:
        chunks.append([])
        used = 0
        for index, word in enumerate(words):
            rest = word
            while used + rest.length > room:
                stay, fits = split(
                    chunks[-1], (rest, *words[index + 1 : index + room]), room, comma_backtrack
                )
                if keep_words or stay < len(chunks[-1]):
                    fits = 0
                if not fits and not chunks[-1]:  # longer than a chunk
                    _check_cut(rest, room)
                    fits = room
                moved = chunks[-1][stay:]
                del chunks[-1][stay:]
                if fits:
                    chunks[-1].append(rest.head(fits))
                    rest = rest.tail(fits)
                chunks.append(moved)
                used = count_tokens(moved)
            chunks[-1].append(rest)
            used += rest.length
    if len(chunks) > 1 and not chunks[-1]:
        chunks.pop()  # after a closing BREAK
    return [Chunk(chunk) for chunk in chunks or [[]]]


def cut_notes(chunks: Sequence[Chunk]) -> Iterator[str]:
    """Says where a word or an embedding is cut between two chunks, one line each."""
    for number, (before, chunk) in enumerate(pairwise(chunks), start=1):
        if chunk and chunk[0].skipped:
            what, parts = ("words", "tokens") if chunk[0].embedding is None else ("embeddings", "vectors")
            yield (
                f"'{chunk[0].text}' is cut between chunks {number} and {number + 1}: {before[-1].length} of its "
                f"{parts} end the first; --keep-words keeps {what} whole"
            )


def first_chunk(words: Iterable[Word], room: int) -> Chunk:
    """The first `room` tokens of words; a word is cut where they end, an embedding is left out."""
    chunk: list[Word] = []
    left = room
    for word in words:
        if not left or (word.embedding is not None and word.length > left):
            break
        chunk.append(word.head(left))
        left -= chunk[-1].length
    return Chunk(chunk)


def _check_cut(word: Word, room: int) -> None:
    if word.embedding is not None:
        raise InputError(
            f"embedding {word.text}: its {word.length} vectors do not fit in a chunk of {room} tokens"
        )


def token_spans(chunks: Iterable[Chunk], context: int, first_row: int = 0) -> Iterator[TokenSpan]:
    """What the rows of a text's embeddings stand for; its chunks take `context` rows each, from `first_row` on.

    Rows are the first encoder's where SDXL's second one sees another number of tokens.
    """
    for index, chunk in enumerate(chunks):
        offset = first_row + index * context
        for word, rows in chunk.rows():
            start, end = offset + rows.start, offset + rows.stop
            yield TokenSpan(word.text, start, end, word.source, word.weight, word.embedding, word.skipped)


def applied_embeddings(
    spans: Sequence[TokenSpan], embeddings: Mapping[str, "Embedding"]
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

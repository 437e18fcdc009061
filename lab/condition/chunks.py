"""Chunks of words, as many as a text encoder reads at once, and how words fill them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from lab.condition.tokens import Word
from lab.errors import InputError
from lab.prompt.chunk_rules import SplitRule, count_tokens
from lab.prompt.syntax import Blend


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


class ChunkedText(NamedTuple):
    """A text in chunks: of each term its blend and the chunks of its members, the chunk that is pooled, and the chunks
    of each text that is taken out of it."""

    terms: list[tuple[Blend, list[list[Chunk]]]]
    pooled: Chunk
    negated: list[list[Chunk]]

    def chunks(self) -> list[Chunk]:
        """All chunks that have to be encoded."""
        texts = [*(member for _, members in self.terms for member in members), *self.negated, [self.pooled]]
        return [chunk for text in texts for chunk in text]

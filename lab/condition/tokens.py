"""Text into the pieces that chunks are made of: words with their token ids, and learned embeddings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lab.condition.bare import BareNames
from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.prompt.syntax import Segment, Span

PLACEHOLDER_ID = 0
"""Stands in a chunk's ids where learned vectors go, as in the A1111 web UI; its own embedding is never seen."""


@dataclass(frozen=True)
class Piece:
    """What a chunk never splits: a word's tokens or an embedding's vectors.

    Attributes:
        text: The word as the prompt has it, or the embedding's name.
        ids: Token ids; `PLACEHOLDER_ID` for each vector of an embedding.
        source: The characters of the prompt that it came from.
        weight: The weight in force, 1.0 for none.
        embedding: The name of the learned embedding, or None for words.
    """

    text: str
    ids: tuple[int, ...]
    source: Span
    weight: float = 1.0
    embedding: str | None = None


@dataclass(frozen=True)
class Break:
    """Closes the current chunk."""


Glue = Callable[[str, str], bool]
"""Whether two characters that touch, the last of a token and the first of the next, are inside of one word."""


def within_word(left: str, right: str) -> bool:
    """`cat|'s`, `fire|-|breathing` and `2|0|4|8` are words; punctuation stands alone."""
    return _in_word(left) and _in_word(right)


def within_run(left: str, right: str) -> bool:
    """ComfyUI's words: whatever has no space in it."""
    return True


def _in_word(character: str) -> bool:
    return character.isalnum() or character in "'’-_"


class Tokenizer:
    """Turns segments into pieces for one bundle, every distinct text once.

    Args:
        vectors: The number of vectors of each learned embedding.
        bare: Finds embeddings by their bare names in the text, or None.
    """

    def __init__(
        self,
        bundle: Bundle,
        vectors: Mapping[str, int] | None = None,
        glue: Glue = within_word,
        bare: BareNames | None = None,
    ):
        self._bundle = bundle
        self._vectors = vectors or {}
        self._glue = glue
        self._bare = bare
        self._words: dict[str, list[Piece]] = {}

    def read(self, texts: Sequence[str]) -> None:
        """Tokenizes texts in one call, ahead of `pieces`.

        Raises:
            InputError: the bundle's tokenizers cut a text differently, so that its encoders' rows do not pair up.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._words]
        if not new:
            return
        first, *others = (tower.tokenizer for tower in self._bundle.towers)
        encoded = first(new, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        for other in others:
            if other(new, add_special_tokens=False, verbose=False)["input_ids"] != encoded["input_ids"]:
                raise InputError(f"{self._bundle.source}: its tokenizers give different tokens for one text")
        for text, ids, offsets in zip(new, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            self._words[text] = self._split(text, ids, offsets)

    def pieces(self, segments: Sequence[Segment]) -> list[Piece | Break]:
        """The pieces of a text's segments, in order."""
        self.read([segment.text for segment in segments if segment.kind == "text"])
        found: list[Piece | Break] = []
        for segment in segments:
            if segment.kind == "break":
                found.append(Break())
            elif segment.kind == "embedding":
                ids = (PLACEHOLDER_ID,) * self._vectors[segment.text]
                found.append(Piece(segment.text, ids, segment.span, segment.weight, segment.text))
            else:
                for word in self._words[segment.text]:
                    source = segment.locate(*word.source)
                    found.append(Piece(word.text, word.ids, source, segment.weight, word.embedding))
        return found

    def _split(self, text: str, ids: Sequence[int], offsets: Sequence[Span]) -> list[Piece]:
        """Groups tokens into words and bare names; `source` counts in the text itself."""
        bare = self._bare.find(text, ids, offsets) if self._bare else {}
        pieces: list[Piece] = []
        first = 0
        while first < len(ids):
            name, last = bare.get(first, (None, first + 1))
            while name is None and last < len(ids) and last not in bare and self._joined(text, offsets, last):
                last += 1
            source = offsets[first][0], offsets[last - 1][1]
            if name is None:
                pieces.append(Piece(text[slice(*source)], tuple(ids[first:last]), source))
            else:
                pieces.append(Piece(name, (PLACEHOLDER_ID,) * self._vectors[name], source, embedding=name))
            first = last
        return pieces

    def _joined(self, text: str, offsets: Sequence[Span], index: int) -> bool:
        """Whether token `index` belongs to the word of the token before it."""
        end, start = offsets[index - 1][1], offsets[index][0]
        if start < end:  # the bytes of one character
            return True
        return start == end and self._glue(text[end - 1], text[start])

"""Text into the pieces that chunks are made of: words with their token ids, and learned embeddings."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lab.models.bundle import Bundle
from lab.prompt.references import ends_word, starts_word
from lab.prompt.syntax import Segment, Span


class BareNames:
    """Matches names by their token ids, the longest first, wherever a word begins and ends.

    Token ids know no case, so neither do bare names. The web UI also matches inside of words, so that its `x-200`
    takes the beginning of `x-2000`; this does not.
    """

    def __init__(self, tokenizer: Any, names: Iterable[str]):
        self._by_first: dict[int, list[tuple[tuple[int, ...], str]]] = {}
        for name in names:
            ids = tuple(tokenizer(name, add_special_tokens=False, verbose=False)["input_ids"])
            if ids:
                self._by_first.setdefault(ids[0], []).append((ids, name))
        for candidates in self._by_first.values():
            candidates.sort(key=lambda candidate: (-len(candidate[0]), candidate[1]))

    def find(self, text: str, ids: Sequence[int], offsets: Sequence[Span]) -> dict[int, tuple[str, int]]:
        """Returns, by the index of its first token, each name found and the index after its last token."""
        found: dict[int, tuple[str, int]] = {}
        position = 0
        while position < len(ids):
            match = self._at(text, ids, offsets, position)
            if match:
                found[position] = match
            position = match[1] if match else position + 1
        return found

    def _at(
        self, text: str, ids: Sequence[int], offsets: Sequence[Span], position: int
    ) -> tuple[str, int] | None:
        if ids[position] not in self._by_first or not starts_word(text, offsets[position][0]):
            return None
        for candidate, name in self._by_first[ids[position]]:
            end = position + len(candidate)
            if tuple(ids[position:end]) == candidate and ends_word(text, offsets[end - 1][1]):
                return name, end
        return None


PLACEHOLDER_ID = 0
"""Stands in a chunk's ids where learned vectors go, as in the A1111 web UI; its own embedding is never seen."""


@dataclass(frozen=True)
class Piece:
    """What a chunk never splits: a word's tokens or an embedding's vectors.

    Attributes:
        text: The word as the prompt has it, or the embedding's name.
        ids: Token ids for each of the model's text encoders; `PLACEHOLDER_ID` for each vector of an embedding.
            They nearly always agree: only where a tokenizer pads with "!" does it see that sign differently.
        source: The characters of the prompt that it came from.
        weight: The weight in force, 1.0 for none.
        embedding: The name of the learned embedding, or None for words.
    """

    text: str
    ids: tuple[tuple[int, ...], ...]
    source: Span
    weight: float = 1.0
    embedding: str | None = None

    @property
    def length(self) -> int:
        """The tokens that it takes up in a chunk."""
        return max(map(len, self.ids))


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
        self._vectors = {} if vectors is None else vectors
        self._glue = glue
        self._bare = bare
        self._words: dict[str, list[Piece]] = {}

    def read(self, texts: Sequence[str]) -> None:
        """Tokenizes texts in one call, ahead of `pieces`."""
        new = [text for text in dict.fromkeys(texts) if text not in self._words]
        if not new:
            return
        encoded = [
            tower.tokenizer(new, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            for tower in self._bundle.towers
        ]
        for index, text in enumerate(new):
            tokens = [Tokens(each["input_ids"][index], each["offset_mapping"][index]) for each in encoded]
            self._words[text] = self._split(text, tokens)

    def pieces(self, segments: Sequence[Segment]) -> list[Piece | Break]:
        """The pieces of a text's segments, in order."""
        self.read([segment.text for segment in segments if segment.kind == "text"])
        found: list[Piece | Break] = []
        for segment in segments:
            if segment.kind == "break":
                found.append(Break())
            elif segment.kind == "embedding":
                ids = self._placeholders(segment.text)
                found.append(Piece(segment.text, ids, segment.span, segment.weight, segment.text))
            else:
                for word in self._words[segment.text]:
                    source = segment.locate(*word.source)
                    found.append(Piece(word.text, word.ids, source, segment.weight, word.embedding))
        return found

    def _placeholders(self, name: str) -> tuple[tuple[int, ...], ...]:
        return ((PLACEHOLDER_ID,) * self._vectors[name],) * len(self._bundle.towers)

    def _split(self, text: str, tokens: Sequence["Tokens"]) -> list[Piece]:
        """Groups the first encoder's tokens into words and bare names, and gives them the other encoders' tokens.

        `source` counts in the text itself.
        """
        ids, offsets = tokens[0]
        bare = self._bare.find(text, ids, offsets) if self._bare else {}
        bounds: list[tuple[int, int]] = []
        first = 0
        while first < len(ids):
            _, last = bare.get(first, (None, first + 1))
            while (
                first not in bare
                and last < len(ids)
                and last not in bare
                and self._joined(text, offsets, last)
            ):
                last += 1
            bounds.append((first, last))
            first = last
        pieces = []
        for (first, last), others in zip(bounds, _shares(bounds, tokens), strict=True):
            source = offsets[first][0], offsets[last - 1][1]
            if first in bare:
                name = bare[first][0]
                pieces.append(Piece(name, self._placeholders(name), source, embedding=name))
            else:
                pieces.append(Piece(text[slice(*source)], (tuple(ids[first:last]), *others), source))
        return pieces

    def _joined(self, text: str, offsets: Sequence[Span], index: int) -> bool:
        """Whether token `index` belongs to the word of the token before it."""
        end, start = offsets[index - 1][1], offsets[index][0]
        if start < end:  # the bytes of one character
            return True
        return start == end and self._glue(text[end - 1], text[start])


class Tokens(NamedTuple):
    """What one tokenizer makes of a text."""

    ids: Sequence[int]
    offsets: Sequence[Span]


def _shares(bounds: Sequence[tuple[int, int]], tokens: Sequence[Tokens]) -> list[tuple[tuple[int, ...], ...]]:
    """For each word, a run of the first encoder's tokens, the other encoders' tokens that stand in it."""
    first, *others = tokens
    shares = []
    for other in others:
        if other.ids == first.ids:
            shares.append([tuple(first.ids[start:end]) for start, end in bounds])
            continue
        starts = [first.offsets[start][0] for start, _ in bounds]
        words: list[list[int]] = [[] for _ in bounds]
        for token, (start, _) in zip(other.ids, other.offsets, strict=True):
            words[max(bisect_right(starts, start) - 1, 0)].append(token)
        shares.append([tuple(word) for word in words])
    return list(zip(*shares, strict=True)) if shares else [()] * len(bounds)

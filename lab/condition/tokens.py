"""Prompt text into words with their token ids, and learned embeddings in their places."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lab.errors import InputError
from lab.prompt.chunk_rules import JoinRule, join_word
from lab.prompt.references import ends_word, starts_word
from lab.prompt.syntax import Segment, Span
from lab.text import check_text, shortened

if TYPE_CHECKING:
    from lab.models.bundle import Bundle, TextTower

PLACEHOLDER_ID = 0
"""Stands in a word's ids for each learned vector, as in the A1111 web UI; no encoder sees its own embedding."""

LARGEST_WEIGHT = 3.4e38
"""Of a word: float32, in which texts are weighted, reaches no further."""


@dataclass(frozen=True)
class Word:
    """What a chunk keeps together where it can: a word's tokens or an embedding's vectors.

    Attributes:
        text: The word as the prompt has it, or the embedding's name.
        ids: Token ids for each of the model's text encoders; `PLACEHOLDER_ID` for each vector of an embedding.
            They nearly always agree: only a tokenizer that pads with "!" may see that sign differently.
        source: The characters of the prompt that it came from.
        weight: The weight in force, 1.0 for none.
        embedding: The name of the learned embedding, or None for words.
        group: Which segment of the text it is of.
        spelling: As the tokenizer reads it, which is where the dialect cleans text; empty for an embedding, and for a
            sign that others follow in one piece, as the first of `,:`, whose token is another than the sign's own.
        skipped: How many of its tokens stand in the chunk before; 0 for a whole word and for a word's beginning.
    """

    text: str
    ids: tuple[tuple[int, ...], ...]
    source: Span
    weight: float = 1.0
    embedding: str | None = None
    group: int = 0
    spelling: str = ""
    skipped: int = 0

    @property
    def length(self) -> int:
        """The tokens that it takes up in a chunk."""
        return max(map(len, self.ids))

    def head(self, tokens: int) -> "Word":
        """Its first tokens."""
        return replace(self, ids=tuple(ids[:tokens] for ids in self.ids))

    def tail(self, tokens: int) -> "Word":
        """What follows its first tokens."""
        ids = tuple(ids[tokens:] for ids in self.ids)
        return replace(self, ids=ids, skipped=self.skipped + tokens)


class Tokenizer:
    """Turns a prompt's segments into words for one bundle; every distinct text is tokenized once."""

    def __init__(
        self,
        bundle: "Bundle",
        count_vectors: Callable[[str], int],
        join: JoinRule = join_word,
        bare_names: Iterable[str] = (),
        clean: Callable[[str], tuple[str, list[Span]]] | None = None,
        pad_is_text: bool = False,
    ):
        """Takes what to tokenize for.

        Args:
            count_vectors: The number of vectors of a learned embedding, by its name.
            join: Which touching tokens are of one word.
            bare_names: Embeddings that the text may name without brackets or prefix.
            clean: The dialect's cleaning of text.
            pad_is_text: Whether a sign that a tokenizer pads with is text in texts.
        """
        self._towers = bundle.towers
        self._count_vectors = count_vectors
        self._join = join
        self._clean = clean
        self._pad_is_text = pad_is_text
        self._bare_names = BareNames(bundle.towers[0].tokenizer, bare_names, clean)
        self._words: dict[str, list[Word]] = {}

    def read(self, texts: Iterable[str]) -> None:
        """Tokenizes texts in one call, ahead of `words`.

        Raises:
            InputError: a text with half a character.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._words]
        if not new:
            return
        for text in new:
            check_text(text)
        cleaned = [self._clean(text) if self._clean else (text, None) for text in new]
        encoded = [self._encoded(tower, [text for text, _ in cleaned]) for tower in self._towers]
        for index, text in enumerate(new):
            words = self._split(cleaned[index][0], [batch[index] for batch in encoded])
            self._words[text] = [_in_text(word, text, cleaned[index][1]) for word in words]

    def _encoded(self, tower: "TextTower", texts: list[str]) -> "list[_Tokens]":
        sign, end = tower.tokenizer.pad_token, tower.tokenizer.eos_token
        if self._pad_is_text and sign != end and any(sign in text for text in texts):
            made = tower.literal_tokenizer.encode_batch(texts, add_special_tokens=False)
            return [(one.ids, one.offsets) for one in made]
        batch = tower.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return list(zip(batch["input_ids"], batch["offset_mapping"], strict=True))

    def words(self, segments: Sequence[Segment]) -> list[list[Word]]:
        """The words of a text in order: a list for each stretch between two `BREAK`s, so at least one.

        Raises:
            InputError: a text with half a character, or a weight that is not a finite number.
        """
        self.read(segment.text for segment in segments if segment.kind == "text")
        stretches: list[list[Word]] = [[]]
        for group, segment in enumerate(segments):
            if segment.kind == "break":
                stretches.append([])
            elif segment.kind == "embedding":
                ids = self._placeholders(segment.text)
                word = Word(segment.text, ids, segment.span, segment.weight, segment.text, group)
                stretches[-1].append(word)
            else:
                stretches[-1] += [
                    replace(word, source=segment.locate(*word.source), weight=segment.weight, group=group)
                    for word in self._words[segment.text]
                ]
        for word in (word for words in stretches for word in words):
            if not abs(word.weight) <= LARGEST_WEIGHT:
                raise InputError(
                    f"the weight of '{shortened(word.text)}' in the prompt is {word.weight:g}; use a smaller one"
                )
        return stretches

    def _placeholders(self, name: str) -> tuple[tuple[int, ...], ...]:
        return ((PLACEHOLDER_ID,) * self._count_vectors(name),) * len(self._towers)

    def _split(self, text: str, tokens: Sequence["_Tokens"]) -> list[Word]:
        """Groups the first encoder's tokens into words and bare names, and gives them the other encoders' tokens.

        `source` counts in the text, as it was cleaned.
        """
        ids, offsets = tokens[0]
        bare = self._bare_names.find(text, ids, offsets)
        bounds: list[Span] = []
        first = 0
        while first < len(ids):
            if first in bare:
                last = bare[first][1]
            else:
                last = first + 1
                while last < len(ids) and last not in bare and self._joined(text, offsets, last):
                    last += 1
            bounds.append((first, last))
            first = last
        words = []
        for (first, last), others in zip(bounds, _tokens_of_others(bounds, tokens), strict=True):
            source = offsets[first][0], offsets[last - 1][1]
            if first in bare:
                name = bare[first][0]
                words.append(Word(name, self._placeholders(name), source, embedding=name))
            else:
                spelling = text[slice(*source)]
                if len(spelling) == 1 and not spelling.isalnum() and not self._ends_piece(ids[first]):
                    spelling = ""
                words.append(Word(spelling, (tuple(ids[first:last]), *others), source, spelling=spelling))
        return words

    def _ends_piece(self, token: int) -> bool:
        return str(self._towers[0].tokenizer.convert_ids_to_tokens(token)).endswith("</w>")

    def _joined(self, text: str, offsets: Sequence[Span], index: int) -> bool:
        """Whether token `index` belongs to the word of the token before it."""
        end, start = offsets[index - 1][1], offsets[index][0]
        if start < end:  # the bytes of one character
            return True
        return start == end and self._join(text[end - 1], text[start])


class BareNames:
    """Matches names by their token ids, the longest first, wherever a word begins and ends.

    Token ids know no case, so neither do bare names. The web UI also matches inside of words, so that its `x-200`
    takes the beginning of `x-2000`; this does not.
    """

    def __init__(
        self,
        tokenizer: Any,
        names: Iterable[str],
        clean: Callable[[str], tuple[str, list[Span]]] | None = None,
    ):
        self._by_first_id: dict[int, list[tuple[tuple[int, ...], str]]] = {}
        for name in names:
            read = clean(name)[0] if clean else name
            ids = tuple(tokenizer(read, add_special_tokens=False, verbose=False)["input_ids"])
            if ids:
                self._by_first_id.setdefault(ids[0], []).append((ids, name))
        for candidates in self._by_first_id.values():
            candidates.sort(key=lambda candidate: (-len(candidate[0]), candidate[1]))

    def find(self, text: str, ids: Sequence[int], offsets: Sequence[Span]) -> dict[int, tuple[str, int]]:
        """Returns, by the index of its first token, each name in a text and the index after its last token."""
        matches: dict[int, tuple[str, int]] = {}
        index = 0
        while self._by_first_id and index < len(ids):
            match = self._match(text, ids, offsets, index)
            if match:
                matches[index] = match
            index = match[1] if match else index + 1
        return matches

    def _match(
        self, text: str, ids: Sequence[int], offsets: Sequence[Span], index: int
    ) -> tuple[str, int] | None:
        if ids[index] not in self._by_first_id or not starts_word(text, offsets[index][0]):
            return None
        for candidate, name in self._by_first_id[ids[index]]:
            end = index + len(candidate)
            if tuple(ids[index:end]) == candidate and ends_word(text, offsets[end - 1][1]):
                return name, end
        return None


def _in_text(word: Word, text: str, origins: Sequence[Span] | None) -> Word:
    """A word of a cleaned text with its place and its letters in the text itself."""
    if origins is None:
        return word
    start, end = word.source
    source = origins[start][0], origins[end - 1][1]
    return replace(word, source=source, text=word.text if word.embedding else text[slice(*source)])


_Tokens = tuple[Sequence[int], Sequence[Span]]
"""What one tokenizer makes of a text: token ids, and the characters of each."""


def _tokens_of_others(bounds: Sequence[Span], tokens: Sequence[_Tokens]) -> list[tuple[tuple[int, ...], ...]]:
    """For each word, tokens `bounds` of the first encoder, the other encoders' tokens that stand in it."""
    (first_ids, first_offsets), *others = tokens
    shares = []
    for ids, offsets in others:
        if ids == first_ids:
            shares.append([tuple(first_ids[start:end]) for start, end in bounds])
            continue
        starts = [first_offsets[start][0] for start, _ in bounds]
        words: list[list[int]] = [[] for _ in bounds]
        for token, (start, _) in zip(ids, offsets, strict=True):
            words[max(bisect_right(starts, start) - 1, 0)].append(token)
        shares.append([tuple(word) for word in words])
    return list(zip(*shares, strict=True)) if shares else [()] * len(bounds)

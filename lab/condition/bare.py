"""Learned embeddings found by their bare names in the text, as the A1111 web UI finds them."""

from collections.abc import Iterable, Sequence
from typing import Any

from lab.prompt.references import ends_word, starts_word
from lab.prompt.syntax import Span


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

"""How a dialect joins tokens into words, and where it ends a chunk that is full. No tensors, no tokenizer.

A chunk is what a text encoder reads at once: 75 tokens beside start and end token for Stable Diffusion.
"""

import itertools
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol


class Unit(Protocol):
    """What a chunk keeps together, as the rules see it: a word's tokens or an embedding's vectors."""

    @property
    def spelling(self) -> str:
        """The word as the tokenizer reads it; empty for an embedding, and for a sign that others follow at once."""

    @property
    def embedding(self) -> str | None:
        """The name of the learned embedding, or None for words."""

    @property
    def length(self) -> int:
        """Tokens."""

    @property
    def group(self) -> int:
        """The same for all units of one segment of the prompt: of one weight, or one embedding."""


class Split(NamedTuple):
    """What a full chunk keeps.

    Attributes:
        stay: How many of its units; the others move on.
        fits: How many tokens of the unit that does not fit as a whole still go in; the others begin the next chunk.
    """

    stay: int
    fits: int = 0


JoinRule = Callable[[str, str], bool]
"""(last character of a token, first of the next, which touches it) -> whether both tokens are of one word."""

SplitRule = Callable[[Sequence[Unit], Sequence[Unit], int, int], Split]
"""(units of a chunk, the unit that does not fit and those after it, room, comma reach) -> what the chunk keeps.

`room` is what a chunk takes, in tokens; of the units that follow, at least so many tokens are shown, or all. `comma
reach` is the option `comma_backtrack`, which most rules ignore.
"""

_SMALL = 8
"""ComfyUI moves groups of fewer tokens as a whole."""


def join_word(left: str, right: str) -> bool:
    """`cat|'s`, `fire|-|breathing` and `2|0|4|8` are words; punctuation stands alone."""
    return _in_word(left) and _in_word(right)


def join_piece(left: str, right: str) -> bool:
    """What the tokenizer of CLIP ends in `</w>`: letters or signs in a row, and each digit for itself."""
    kind = _kind(left)
    return kind != "number" and kind == _kind(right)


def _in_word(character: str) -> bool:
    return character.isalnum() or character in "'’-_"


def _kind(character: str) -> str:
    return {"L": "letter", "N": "number"}.get(unicodedata.category(character)[0], "sign")


def cut_groups(chunk: Sequence[Unit], ahead: Sequence[Unit], room: int, reach: int) -> Split:
    """ComfyUI since December 2024: a segment of fewer than 8 tokens moves on whole, another is cut where it stands."""
    group = ahead[0].group
    if ahead[0].embedding is not None and ahead[0].length < _SMALL:
        return Split(
            len(chunk)
        )  # also one that is named in the middle of a segment, which ComfyUI does not know
    inside = 0
    while inside < len(chunk) and chunk[-1 - inside].group == group:
        inside += 1
    before = len(chunk) - inside
    behind = itertools.takewhile(lambda unit: unit.group == group, ahead)
    if count_tokens(chunk[before:]) + count_tokens(list(behind)) < _SMALL:
        return Split(before)
    return Split(len(chunk), room - count_tokens(chunk))


def back_to_comma(chunk: Sequence[Unit], ahead: Sequence[Unit], room: int, reach: int) -> Split:
    """The A1111 web UI, save that it never cuts a word: what follows the last comma moves along if that comma is at
    most `reach` tokens back.

    Not before a comma, and before an embedding only if the chunk is full.
    """
    comma = _comma_in_reach(chunk, ahead[0], room, reach)
    return Split(len(chunk) if comma is None else comma + 1)


def cut_words(chunk: Sequence[Unit], ahead: Sequence[Unit], room: int, reach: int) -> Split:
    """The A1111 web UI: as `back_to_comma`, and without a comma in reach a word is cut where the chunk is full."""
    comma = _comma_in_reach(chunk, ahead[0], room, reach)
    if comma is not None:
        return Split(comma + 1)
    return Split(len(chunk), 0 if ahead[0].embedding is not None else room - count_tokens(chunk))


def _comma_in_reach(chunk: Sequence[Unit], unit: Unit, room: int, reach: int) -> int | None:
    """The last comma's place in a chunk if what follows it moves along with a unit that does not fit."""
    if not reach or unit.spelling == "," or (unit.embedding is not None and count_tokens(chunk) < room):
        return None
    comma = _last(chunk, ",")
    return None if comma is None or room - count_tokens(chunk[:comma]) > reach else comma


def back_to_sentence(chunk: Sequence[Unit], ahead: Sequence[Unit], room: int, reach: int) -> Split:
    """compel: the chunk ends after its last full stop, else after `,` `;` or `:`, else after a word."""
    end = _last(chunk, ".")
    if end is None:
        end = _last(chunk, ",", ";", ":")
    return Split(len(chunk) if end is None else end + 1)


def count_tokens(units: Sequence[Unit]) -> int:
    """The tokens that units take up together."""
    return sum(unit.length for unit in units)


def _last(chunk: Sequence[Unit], *signs: str) -> int | None:
    for index in range(len(chunk) - 1, -1, -1):
        if chunk[index].spelling in signs:
            return index
    return None

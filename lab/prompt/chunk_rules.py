"""How a dialect joins tokens into words, and where it ends a chunk that is full. No tensors, no tokenizer.

A chunk is what a text encoder reads at once: 75 tokens beside start and end token for Stable Diffusion.
"""

from collections.abc import Callable, Sequence
from typing import Protocol


class Unit(Protocol):
    """What a chunk keeps together, as the rules see it: a word's tokens or an embedding's vectors."""

    @property
    def text(self) -> str:
        """The word as the prompt has it, or the embedding's name."""

    @property
    def embedding(self) -> str | None:
        """The name of the learned embedding, or None for words."""

    @property
    def length(self) -> int:
        """Tokens."""


JoinRule = Callable[[str, str], bool]
"""(last character of a token, first of the next, which touches it) -> whether both tokens are of one word."""

SplitRule = Callable[[Sequence[Unit], Unit, int, int], int]
"""(units of a chunk, the unit that does not fit, room, comma reach) -> how many units stay; the others move on.

`room` is what a chunk takes, in tokens; `comma reach` is the option `comma_backtrack`, which most rules ignore.
"""


def join_word(left: str, right: str) -> bool:
    """`cat|'s`, `fire|-|breathing` and `2|0|4|8` are words; punctuation stands alone."""
    return _in_word(left) and _in_word(right)


def join_touching(left: str, right: str) -> bool:
    """ComfyUI's words until 2024-12: whatever has no space in it."""
    return True


def _in_word(character: str) -> bool:
    return character.isalnum() or character in "'’-_"


def move_word(chunk: Sequence[Unit], unit: Unit, room: int, reach: int) -> int:
    """ComfyUI: a word that does not fit begins the next chunk."""
    return len(chunk)


def back_to_comma(chunk: Sequence[Unit], unit: Unit, room: int, reach: int) -> int:
    """The A1111 web UI: what follows the last comma moves along if that comma is at most `reach` tokens back.

    Not before a comma, and before an embedding only if the chunk is full.
    """
    if not reach or unit.text == "," or (unit.embedding is not None and count_tokens(chunk) < room):
        return len(chunk)
    comma = _last(chunk, ",")
    if comma is None or room - count_tokens(chunk[:comma]) > reach:
        return len(chunk)
    return comma + 1


def back_to_sentence(chunk: Sequence[Unit], unit: Unit, room: int, reach: int) -> int:
    """compel: the chunk ends after its last full stop, else after `,` `;` or `:`, else after a word."""
    end = _last(chunk, ".")
    if end is None:
        end = _last(chunk, ",", ";", ":")
    return len(chunk) if end is None else end + 1


def count_tokens(units: Sequence[Unit]) -> int:
    """The tokens that units take up together."""
    return sum(unit.length for unit in units)


def _last(chunk: Sequence[Unit], *signs: str) -> int | None:
    for index in range(len(chunk) - 1, -1, -1):
        if chunk[index].text in signs and chunk[index].embedding is None:
            return index
    return None

"""The prompt dialects: one table. Parser, chunks, weights, flags, help and records derive from it.

To add a dialect, add an entry; it may be done while the program runs:

    DIALECTS["mine"] = Dialect("my own", read=my_reader, weighting="comfy", emphasis="({text}:{weight:g})")
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from lab.errors import InputError, did_you_mean
from lab.prompt import a1111, comfy, compel
from lab.prompt.chunk_rules import (
    JoinRule,
    SplitRule,
    back_to_comma,
    back_to_sentence,
    cut_groups,
    cut_words,
    join_piece,
    join_word,
)
from lab.prompt.schedule import parse_nodes
from lab.prompt.syntax import Node, Reading, Span, whole_text


@dataclass(frozen=True)
class Dialect:
    """How one tool reads prompts.

    Attributes:
        label: What it is, for help texts and pages.
        read: Reads the attention of a text without schedules. Never fails, whatever the text.
        weighting: Its own arithmetic for weighted words: a name in `lab.condition.weighting.WEIGHTINGS`.
        compose: Splits a prompt into parts that guide side by side, each with a weight; None if it has no such syntax.
            Negative prompts are not split.
        schedule: Parses characters `start:end` of a text into what changes over the steps; None if nothing does.
        comment: Matches what it leaves out of a prompt before all else; None if it has no comments.
        clean: What its tokenizers read in place of a text, and where in the text each character is from; None if they
            read it as it stands.
        pad_is_text: Whether the sign that diffusers pads OpenCLIP's texts with, "!", is a sign like any other in texts,
            where diffusers reads it as padding (token 0), too.
        clip_skip_families: The model families on which its clip skip does anything; None for all.
        empty_negative_is_none: Whether an empty negative prompt is the same as none, which is zeros for SDXL.
        join: Whether two touching tokens belong to one word.
        split: Where a chunk ends that is full, and whether a word is cut there.
        long_note: What to know about its texts of several chunks, or None.
        words: Words that are syntax in it; other dialects note that to them they are words.
        mentions: Where the tool itself looks for an embedding, and by which name; None if it has no `embedding:name`.
            The lab finds more of them, in every dialect, and notes say where the tool would not.
        emphasis: How it writes a weight, with `{text}` and `{weight:g}`; None if it has no weights.
        mention: How it names an embedding, with `{name}`.
        special: Matches the signs that it takes for syntax unless a backslash is before them; None if there are none.
    """

    label: str
    read: Callable[[str], Reading]
    weighting: str
    compose: Callable[[str], list[tuple[float, Span]]] | None = None
    schedule: Callable[[str, int, int], tuple[Node, ...]] | None = None
    comment: re.Pattern[str] | None = None
    clean: Callable[[str], tuple[str, list[Span]]] | None = None
    pad_is_text: bool = False
    clip_skip_families: tuple[str, ...] | None = None
    empty_negative_is_none: bool = False
    join: JoinRule = join_word
    split: SplitRule = back_to_comma
    long_note: str | None = None
    words: tuple[str, ...] = ()
    mentions: Callable[[str], dict[int, str]] | None = None
    emphasis: str | None = None
    mention: str = "<{name}>"
    special: re.Pattern[str] | None = None


def _read_plain(text: str) -> Reading:
    return Reading.of(whole_text(text))


DIALECTS: dict[str, Dialect] = {
    "a1111": Dialect(
        "the A1111 web UI",
        read=a1111.read,
        weighting="a1111",
        compose=a1111.compose,
        schedule=parse_nodes,
        pad_is_text=True,
        clip_skip_families=("sd1",),
        empty_negative_is_none=True,
        comment=re.compile(r"#[^\n]*"),
        clean=a1111.clean,
        split=cut_words,
        words=("AND", "BREAK"),
        emphasis="({text}:{weight:g})",
        mention="{name}",
        special=re.compile(r"[\\()\[\]]"),
    ),
    "comfy": Dialect(
        "ComfyUI",
        read=comfy.read,
        weighting="comfy",
        pad_is_text=True,
        split=cut_groups,
        mentions=comfy.find_mentions,
        emphasis="({text}:{weight:g})",
        mention="embedding:{name}",
        special=re.compile(r"[()]"),
    ),
    "compel": Dialect(
        "the compel library",
        read=compel.read,
        weighting="compel",
        join=join_piece,
        split=back_to_sentence,
        long_note="the compel library drops what follows the first chunk, save with truncate_long_prompts=False; "
        "here nothing is dropped",
        emphasis="({text}){weight:g}",
        special=re.compile(r"[()\"]|[+-](?=[+-]*(?:[\s),.]|$))"),
    ),
    "plain": Dialect("no syntax", read=_read_plain, weighting="ignore"),
}


def find_dialect(name: str) -> Dialect:
    """The dialect of a name.

    Raises:
        InputError: there is none of that name, with the nearest ones.
    """
    if name not in DIALECTS:
        raise InputError(f"dialect: there is no '{name}'{did_you_mean(name, DIALECTS)}")
    return DIALECTS[name]


def foreign_words(name: str) -> dict[str, str]:
    """Words that are syntax in other dialects than the named one, and in which."""
    own = find_dialect(name).words
    return {
        word: other
        for other, dialect in reversed(DIALECTS.items())
        for word in dialect.words
        if word not in own
    }

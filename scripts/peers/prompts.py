"""Generated prompts of the kinds that people write, and worse."""

import random
from collections.abc import Callable, Sequence

WORDS = (
    "a cat red dog on the of beach portrait masterpiece highly detailed photograph rutkowski rain-soaked 35mm 4k best "
    "quality under_score don’t “quoted” naïve 猫 東京 😀 👩🏽 8k, by greg, lighting; trending? x.y l'été ｆｕｌｌ， "
    "&amp; it's 1girl, blue_eyes, unreal engine! (c) ﬁne volumetric cinematic , , - — unsplash extraordinarily cute"
).split()
SOUP = (
    "( ) [ ] : | \\ \\( \\] , . a b cat (a:1.2) (b:0.5) [c] [a:b:3] [a|b] [b:.5] :1.3) :0.5] :2] AND BREAK 12 : ( ["
).split()
SHAPES = (
    "({a}:{weight}) [{b}]",
    "({a})",
    "(({a}) {b}:{weight})",
    "[{a}:{b}:{when}]",
    "[{a}:{when}] {b}",
    "[{a}::{when}]",
    "[{a}|{b}|{c}]",
    "{a} AND {b} :{weight}",
    "{a} BREAK {b}",
    "{a} # {b}\n{c}",
    "{a} {mention} {b}",
    "({a} {mention}:{weight})",
    "{a}, {b} {c}",
)
"""Of nested syntax."""

VECTORS = {"toyone": 1, "birbstyle": 3, "easynegative-x": 8, "longthing": 40}
"""Learned embeddings that prompts name, and their vectors; no name is within another or in a word."""


def make_prompts(count: int, seed: int, mentions: Sequence[str]) -> list[str]:
    """Prompts of every kind in turn: prose, tags, nested syntax and soup, short and of several chunks.

    Args:
        mentions: How an embedding is named, with `{name}`.
    """
    draw = random.Random(seed)
    makers: list[Callable[[], str]] = [
        lambda: " ".join(draw.choices(WORDS, k=draw.choice((3, 12, 60, 120)))),
        lambda: ", ".join(
            " ".join(draw.choices(WORDS, k=draw.randint(1, 4))) for _ in range(draw.choice((3, 40)))
        ),
        lambda: "".join(draw.choice((" ", "")) + word for word in draw.choices(SOUP, k=draw.randint(1, 12))),
        lambda: _nested(draw, 3, mentions),
        lambda: ", ".join(_nested(draw, 2, mentions) for _ in range(draw.randint(2, 25))),
    ]
    return [makers[number % len(makers)]() for number in range(count)]


def _nested(draw: random.Random, depth: int, mentions: Sequence[str]) -> str:
    """Brackets, schedules, alternations, compositions and embeddings within each other."""
    if not depth:
        return " ".join(draw.choices(WORDS, k=draw.randint(1, 4)))
    shape = draw.choice(SHAPES)
    values = {
        "weight": round(draw.uniform(0, 2), draw.randint(0, 3)),
        "when": draw.choice(("3", "0", ".5", "0.25", "12", "2.0")),
        "mention": draw.choice(mentions).format(name=draw.choice(list(VECTORS))),
    }
    for inner in "abc":
        if f"{{{inner}}}" in shape:
            values[inner] = _nested(draw, depth - 1, mentions)
    return shape.format(**values)

"""A scene: what an image shows, in words that a caption can use and numbers that a painter can use."""

from __future__ import annotations

import random
from dataclasses import dataclass

from scripts.pretrain.degrade import DEGRADATIONS

COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "red": (214, 48, 49),
    "orange": (245, 145, 40),
    "yellow": (250, 213, 70),
    "green": (62, 166, 78),
    "teal": (64, 188, 186),
    "blue": (50, 102, 214),
    "purple": (134, 72, 186),
    "pink": (246, 158, 196),
    "brown": (128, 84, 52),
    "grey": (140, 144, 150),
    "black": (24, 24, 28),
}
# Words -> centre of the object as a share of the width and the height.
POSITIONS: dict[str, tuple[float, float]] = {
    "on the left": (0.28, 0.5),
    "on the right": (0.72, 0.5),
    "at the top": (0.5, 0.28),
    "at the bottom": (0.5, 0.72),
    "in the top left corner": (0.28, 0.28),
    "in the top right corner": (0.72, 0.28),
    "in the bottom left corner": (0.28, 0.72),
    "in the bottom right corner": (0.72, 0.72),
}
LARGE, MEDIUM, SMALL = 112 / 128, 72 / 128, 52 / 128  # an icon's side as a share of the image's


@dataclass(frozen=True)
class Placed:
    """One icon in a scene: the object's name, its centre and its side (shares of the image's side)."""

    name: str
    x: float
    y: float
    side: float


@dataclass(frozen=True)
class Scene:
    """Everything about one training image but its pixels."""

    style: str
    objects: tuple[Placed, ...]
    background: str
    words: str  # position and size as a caption says them; empty for a centred single
    degradation: str  # one of DEGRADATIONS or empty
    said: bool  # the caption admits the degradation
    seed: int  # of the degradation's strength and noise


@dataclass(frozen=True)
class Shares:
    """How often each kind of scene occurs, each in [0, 1]."""

    centred: float
    two_objects: float
    white: float
    degraded_silently: float
    degraded_said: float


def beside(name: str, other: str) -> tuple[Placed, Placed]:
    """Two objects, the first on the left."""
    return Placed(name, 0.26, 0.5, MEDIUM * 0.86), Placed(other, 0.74, 0.5, MEDIUM * 0.86)


def _placement(
    name: str, other: str | None, shares: Shares, order: random.Random
) -> tuple[tuple[Placed, ...], str]:
    """Where the object (and its neighbour) goes, and the words for it."""
    kind = order.random()
    if kind < shares.centred or (other is None and kind < shares.centred + shares.two_objects):
        return (Placed(name, 0.5, 0.5, LARGE),), ""
    if other is not None and kind < shares.centred + shares.two_objects:
        return beside(name, other), "next to"
    if order.random() < 0.3:
        return (Placed(name, 0.5, 0.5, SMALL),), "small"
    words, (x, y) = order.choice(list(POSITIONS.items()))
    return (Placed(name, x, y, SMALL),), words


def draw(style: str, name: str, others: list[str], shares: Shares, order: random.Random) -> Scene:
    """A random scene of `name` in `style`; `others` are the objects that may stand beside it (may be empty)."""
    other = order.choice(others) if others else None
    objects, words = _placement(name, other, shares, order)
    background = (
        "white" if order.random() < shares.white else order.choice([c for c in COLOURS if c != "white"])
    )
    bad = order.random()
    degradation, said = "", False
    if bad < shares.degraded_silently + shares.degraded_said:
        degradation, said = order.choice(list(DEGRADATIONS)), bad >= shares.degraded_silently
    return Scene(style, objects, background, words, degradation, said, order.getrandbits(31))


def close_ups(style: str, name: str, on_white: int, degraded: float, order: random.Random) -> list[Scene]:
    """The object large and centred on every colour, and `on_white` times on white; a share of them degraded in silence.

    A small model needs to see what it is to draw often.
    """
    found = []
    for background in [c for c in COLOURS if c != "white"] + ["white"] * on_white:
        kind = order.choice(list(DEGRADATIONS)) if order.random() < degraded else ""
        placed = (Placed(name, 0.5, 0.5, LARGE),)
        found.append(Scene(style, placed, background, "", kind, False, order.getrandbits(31)))
    return found


def side_by_side(names: list[str], style: str, order: random.Random) -> Scene:
    """Two of these objects in one style, left and right, half of the time on white."""
    background = "white" if order.random() < 0.5 else order.choice(list(COLOURS))
    return Scene(
        style, beside(*order.sample(names, 2)), background, "next to", "", False, order.getrandbits(31)
    )

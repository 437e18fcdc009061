"""What prompts ask for around something learned, and a judge that says whether images show it.

    python -m scripts.obedience    # how often the judge is right about renderings of such prompts

The judge is the network of scripts/pretrain/judge.py, which saw renderings of the 400 objects that the bundled model
draws. It has no part in learning and did not choose the words that vectors begin at, so that its features also say how
like images are: of 60 drawings that it never saw it tells 96 % from the 59 others, where the shipped CLIP tells 76 %.
Not asked, because nobody could answer: "two of" (no caption of the model's counts) and another style (the judge names
the style of 75 % of drawings that it never saw, and the model draws it in 43 % of pairs that it never saw).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, cycle, islice
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.images import to_tensor
from lab.score.clip import image_features
from scripts.pretrain.caption import with_article
from scripts.pretrain.catalogue import STYLES
from scripts.pretrain.common import WORK
from scripts.pretrain.data import Icons, read_split
from scripts.pretrain.judge import FOLDER, Judge
from scripts.pretrain.paint import paint
from scripts.pretrain.scene import COLOURS, LARGE, POSITIONS, SMALL, Placed, Scene, beside
from scripts.things import (
    KEPT_APART,
    all_things,
    background,
    is_style,
    pictures_of,
    read_contexts,
    side_by_side,
)

KINDS = ("background", "place", "beside")
BOTH = "both"
"""Whether two learned things are both there."""

PLACES = ("on the left", "at the top")
OTHERS = ("cat", "dog", "guitar", "umbrella", "banana", "rocket")
PLAIN = 6
"""Prompts that ask for nothing but a background; of two things, for these side by side, and again for either alone."""

CENTRE = (0.5, 0.5)
STANDS_OUT = 0.2
"""By how much of the range a pixel differs from the background that belongs to the drawing."""


@dataclass(frozen=True)
class Context:
    """What a prompt asks for.

    Attributes:
        kind: One of KINDS, or BOTH.
        background: A colour's name, or nothing.
        place: Where the thing is to be, one of PLACES, or nothing.
        other: An object beside it, or nothing.
        both: Two learned things side by side, whichever is on the left, or nothing.
    """

    kind: str
    background: str
    place: str = ""
    other: str = ""
    both: tuple[str, ...] = ()

    def prompt(self, thing: str) -> str:
        """The prompt, as the bundled model's captions are worded."""
        where = (
            f", {self.place}" if self.place else f" next to {with_article(self.other)}" if self.other else ""
        )
        return f"{thing}{where} on a {self.background} background"


def contexts(known: Sequence[str], order: random.Random) -> list[Context]:
    """Fourteen prompts on backgrounds that no image showed which was learned from.

    Args:
        known: The colours that these showed.
    """
    new = [colour for colour in COLOURS if colour not in known]
    found = [Context("background", colour) for colour in (new * PLAIN)[:PLAIN]]
    found += [Context("place", order.choice(new), place=place) for place in PLACES]
    return found + [Context("beside", order.choice(new), other=other) for other in OTHERS]


class Asked(NamedTuple):
    """A prompt with a place for {name}, or for two things {name} and {name2}; what it asks for; and which of the images
    kept apart it is held against."""

    prompt: str
    context: Context
    held_against: slice = slice(None)


def asked_about(names: Sequence[str]) -> list[Asked]:
    """What is asked about a thing, two things or a style, by the names of their folders."""
    if len(names) > 1:
        return two_asked(names)
    return style_asked(names[0]) if is_style(names[0]) else thing_asked(names[0])


def thing_asked(name: str) -> list[Asked]:
    """A thing in new contexts; all images kept apart show it."""
    known = {background(caption) for caption in read_contexts(name)}
    return [Asked(each.prompt("a {name}"), each) for each in contexts(list(known), random.Random(name))]


def style_asked(name: str) -> list[Asked]:
    """Other objects in a style: what each image kept apart shows is asked for in words, and held against it alone."""
    captions = read_contexts(name, KEPT_APART)
    return [
        Asked(caption, Context("background", background(caption)), slice(number, number + 1))
        for number, caption in enumerate(captions)
    ]


def two_asked(names: Sequence[str]) -> list[Asked]:
    """Two things side by side in both orders, then either alone, which the images kept apart that are its own show."""
    known = {background(caption) for name in names for caption in read_contexts(name)}
    colours = list(islice(cycle([colour for colour in COLOURS if colour not in known] or COLOURS), PLAIN))
    marks, found, start = ("{name}", "{name2}"), [], 0
    for number, colour in enumerate(colours):
        first, second = marks[:: 1 if number % 2 else -1]
        prompt = f"a {first} next to a {second} on a {colour} background"
        found.append(Asked(prompt, Context(BOTH, "", both=tuple(names))))
    for name, mark in zip(names, marks, strict=True):
        end = start + len(read_contexts(name, KEPT_APART))
        each = [Context("background", colour) for colour in colours]
        found += [Asked(one.prompt(f"a {mark}"), one, slice(start, end)) for one in each]
        start = end
    return found


class JudgeOfRenderings:
    """Says what 128 px images (n, 3, 128, 128) in 0..1 show."""

    def __init__(self, unseen: Path | None = None) -> None:
        """Reads the network.

        Args:
            unseen: A folder with a folder of pictures of each thing that it is to know besides, by its features alone.
        """
        missing = [path for path in (FOLDER / "average.pt", WORK / "split.json") if not path.is_file()]
        if missing:
            raise SystemExit(
                f"{missing[0]}: not there; `python -m scripts.pretrain.data` and, for 27 minutes of one core, "
                "`python -m scripts.pretrain.judge` make it"
            )
        self.names = list(read_split(WORK / "split.json")[0].train)
        self.network = Judge(len(self.names)).eval()
        self.network.load_state_dict(torch.load(FOLDER / "average.pt", weights_only=True))
        folders = [] if unseen is None else sorted(path for path in unseen.iterdir() if path.is_dir())
        self._unseen = {
            folder.name: image_features(self, pictures_of(folder.name, folder.parent)).mean(dim=0)
            for folder in folders
            if not is_style(folder.name)
        }

    @torch.no_grad()
    def images(self, pixels: Tensor) -> Tensor:
        """(n, 4096) features of unit length; `lab.score.clip.image_features` takes the judge for a CLIP."""
        return self._features(_halved(pixels))

    def _features(self, seen: Tensor) -> Tensor:
        return F.normalize(self.network.body(seen), dim=1)

    def _unseen_in(self, seen: Tensor) -> list[str]:
        """Of the things that it was not taught, the one whose pictures are the most like each image."""
        names, means = list(self._unseen), torch.stack(list(self._unseen.values()))
        return [names[place] for place in (self._features(seen) @ means.T).argmax(dim=1)]

    @torch.no_grad()
    def confirms(self, pixels: Tensor, asked: Sequence[Context]) -> list[bool]:
        """Whether each image shows all that its prompt asks for beside the thing itself."""
        backgrounds = self.network(_halved(pixels))[2].argmax(dim=1).tolist()
        halves = [self.network(half)[0].argmax(dim=1).tolist() for half in _both_halves(pixels)]
        unseen = [self._unseen_in(half) for half in _both_halves(pixels)] if self._unseen else []
        right = []
        for number, context in enumerate(asked):
            right.append(
                context.background in ("", list(COLOURS)[backgrounds[number]])
                and (not context.place or _place(pixels[number]) == context.place)
                and (not context.other or context.other in (self.names[half[number]] for half in halves))
                and (not context.both or {*context.both} == {half[number] for half in unseen})
            )
        return right


def _halved(pixels: Tensor) -> Tensor:
    """As the judge takes them: 64 px, -1..1."""
    return F.avg_pool2d(pixels * 2 - 1, 2)


def _both_halves(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Where the drawings of two objects side by side are, each as a picture of its own that the judge takes."""
    side = pixels.shape[-1]
    (first, second), near = beside("", ""), round(0.485 * side)
    cut = []
    for placed in (first, second):
        top, left = round(placed.y * side) - near // 2, round(placed.x * side) - near // 2
        part = pixels[:, :, top : top + near, left : left + near]
        cut.append(F.interpolate(part, (64, 64), mode="bilinear", antialias=True) * 2 - 1)
    return cut[0], cut[1]


def _place(pixels: Tensor) -> str:
    """The one of POSITIONS, or nothing for the centre, that is nearest the centre of what stands out in (3, s, s)."""
    border = torch.cat(
        [pixels[:, :2].flatten(1), pixels[:, -2:].flatten(1), pixels[:, :, 0], pixels[:, :, -1]], dim=1
    )
    stands_out = (
        (pixels - border.median(dim=1).values[:, None, None]).abs().amax(dim=0) > STANDS_OUT
    ).float()
    side, total = pixels.shape[-1], stands_out.sum().clamp_min(1)
    steps = (torch.arange(side) + 0.5) / side
    x, y = float(stands_out.sum(dim=0) @ steps / total), float(stands_out.sum(dim=1) @ steps / total)
    places = POSITIONS | {"": CENTRE}
    return min(places, key=lambda place: (places[place][0] - x) ** 2 + (places[place][1] - y) ** 2)


def rendering(context: Context, style: str, name: str) -> Scene:
    """What an obedient model would draw."""
    placed: tuple[Placed, ...] = (
        Placed(name, *POSITIONS.get(context.place, CENTRE), SMALL if context.place else LARGE),
    )
    placed = beside(name, context.other) if context.other else placed
    return Scene(style, placed, context.background, "", "", False, 0)


def judged_pairs(judge: JudgeOfRenderings) -> tuple[float, float]:
    """Of pictures of any two things side by side, the share that shows both, and that shows another's two."""
    pairs = list(combinations(all_things(), 2))
    pixels = to_tensor([side_by_side(*(pictures_of(name)[0] for name in pair)) for pair in pairs])
    asked = [Context(BOTH, "", both=pair) for pair in pairs]
    return mean(judge.confirms(pixels, asked)), mean(judge.confirms(pixels.roll(1, 0), asked))


def main() -> None:
    judge, order = JudgeOfRenderings(KEPT_APART), random.Random(0)
    icons: Icons = torch.load(WORK / "icons.pt", weights_only=True)
    things = read_split(WORK / "split.json")[0].objects
    found: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    fooled: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    for name in things:
        asked = contexts([], order)
        images = [paint(rendering(each, order.choice(list(STYLES)), name), icons, 128) for each in asked]
        pixels = torch.stack(images).float() / 255
        for each, right, wrong in zip(
            asked, judge.confirms(pixels, asked), judge.confirms(pixels.roll(1, 0), asked), strict=True
        ):
            found[each.kind].append(right)
            fooled[each.kind].append(wrong)
    print(f"of renderings of {len(things)} things that the judge never saw:")
    for kind in KINDS:
        shares = [sum(each[kind]) / len(each[kind]) for each in (found, fooled)]
        print(
            f"  {kind:10} {shares[0]:6.1%} of {len(found[kind])} confirmed, and {shares[1]:.1%} for another's prompt"
        )
    told, mistaken = judged_pairs(judge)
    print(
        f"  {BOTH:10} {told:6.1%} of pictures of two unseen things, and {mistaken:.1%} for another's prompt"
    )


if __name__ == "__main__":
    main()

"""A contact sheet: every image of a run, labelled, on pages that suit a screen."""

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw

from lab.files import atomic
from lab.fonts import draw_text, spelled, text_length
from lab.images import open_image
from lab.runs.run import made_again

ASPECT = 1.6
"""Width to height that a page comes near: a screen's."""

MAX_WIDTH, MAX_HEIGHT = 2560, 1600
"""Pixels of a page. Only a heading and one line of images may make it higher."""

LARGE, SMALL = 256, 160
"""Pixels of an image's longer side: of few images, and of more than `MANY`. Smaller images stay as they are."""

MANY = 60
MIN_WIDTH = 480
"""Pixels of a page with a title."""

MARGIN, GAP = 8, 20
"""Pixels around an image, and between groups."""

FONT_SIZE = 13
TITLE_LINES, LABEL_LINES = 3, 5
"""Lines that a text is wrapped into at most: over a page, and over or under images."""


@dataclass(frozen=True)
class SheetGroup:
    """Images that stay together under a heading that they share: (file, label) each."""

    heading: str
    cells: Sequence[tuple[Path, str]]


def write_sheets(
    path: Path, groups: Sequence[SheetGroup], title: str = "", columns: int | None = None
) -> list[Path]:
    """Draws the groups over as many pages as they need.

    Args:
        title: What all images share, over each page; each line of it is wrapped.
        columns: Images beside each other in a group; by default as many as give the pages a screen's shape.

    Returns:
        The files written: `path`, then `path` with -2, -3, ... before its suffix. Sheets of an earlier run that had
        more pages are removed.

    Raises:
        InputError: an image that cannot be read, or a folder that cannot be written.
    """
    groups = [group for group in groups if group.cells]
    layout = _choose(groups, title, columns)
    written = []
    for number, strips in enumerate(layout.pages(), start=1):
        name = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        page = layout.draw(strips)
        with atomic(name) as temporary:
            page.save(temporary, compress_level=1)  # a third of the default's time
        written.append(name)
    for old in path.parent.glob(f"{path.stem}-*{path.suffix}"):
        if old not in written and old.stem.removeprefix(f"{path.stem}-").isdigit():
            old.unlink()
    return written


def _choose(groups: Sequence[SheetGroup], title: str, columns: int | None) -> "_Layout":
    """The layout whose first page is nearest to a screen's shape; of those that need several pages, the fullest."""
    total, longest = sum(len(group.cells) for group in groups), max(len(group.cells) for group in groups)
    side = LARGE if total <= MANY else SMALL
    size = _open(groups[0].cells[0][0]).size
    scale = min(side / max(size), 1.0)
    cell = max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)
    room = max((MAX_WIDTH - MARGIN) // (cell[0] + MARGIN), 1)
    widths = [columns] if columns else range(1, min(longest, room) + 1)
    candidates = [
        _Layout(groups, title, cell, min(across, longest), beside)
        for across in widths
        for beside in range(1, max(min(room // across, len(groups)), 1) + 1)
    ]
    return min(candidates, key=lambda layout: layout.cost)


class _Layout:
    """Groups in strips: `beside` groups next to each other, each `across` images wide."""

    def __init__(
        self, groups: Sequence[SheetGroup], title: str, cell: tuple[int, int], across: int, beside: int
    ):
        self._cell = cell
        self._across, self._beside = across, beside
        self._block = across * (cell[0] + MARGIN) - MARGIN + (GAP if across > 1 else MARGIN)
        self._width = MARGIN + beside * self._block
        if title:
            self._width = max(self._width, MIN_WIDTH)
        self._title = [
            line
            for text in title.splitlines()
            for line in wrapped(text, self._width - 2 * MARGIN, TITLE_LINES)
        ]
        self._strips = [groups[start : start + beside] for start in range(0, len(groups), beside)]

    @property
    def cost(self) -> float:
        """How far a page is from a screen's shape, by the logarithm of the ratio; gaps in it count, too."""
        strips = self._strips[:20]  # the others are like them
        lines = [line for strip in strips for line in self._lines(strip)]
        extent = sum(extent for _, extent in lines) / len(strips)
        room = MAX_HEIGHT - self._top
        on_a_page = min(max(room // extent, 1), len(self._strips))
        height = self._top + min(on_a_page * extent, room)
        filled = sum(len(group.cells) for strip in strips for group in strip)
        places = len(lines) * self._beside * self._across
        return abs(math.log(self._width / height / ASPECT)) + 1.5 * math.log(max(places / filled, 1))

    def pages(self) -> "Iterator[list[_Line]]":
        """The lines of each page; a strip is parted only if it is higher than a page."""
        page: list[_Line] = []
        height = self._top
        for strip in self._strips:
            lines = self._lines(strip)
            needed = sum(extent for _, extent in lines)
            if page and height + needed > MAX_HEIGHT:
                yield page
                page, height = [], self._top
            for line in lines:
                if page and height + line[1] > MAX_HEIGHT:
                    yield page
                    page, height = [], self._top
                page.append(line)
                height += line[1]
        yield page

    def draw(self, lines: "Sequence[_Line]") -> Image.Image:
        """One page."""
        page = Image.new("RGB", (self._width, self._top + sum(extent for _, extent in lines)), "white")
        pen = ImageDraw.Draw(page)
        _write(pen, MARGIN, MARGIN, self._title, "black")
        top = self._top
        for parts, extent in lines:
            headings = max(len(heading) for heading, _ in parts)
            for place, (heading, cells) in enumerate(parts):
                left = MARGIN + place * self._block
                _write(pen, left, top, heading, "black")
                for column, (file, label) in enumerate(cells):
                    at = left + column * (self._cell[0] + MARGIN), top + _text_height(headings)
                    page.paste(_thumbnail(file, self._cell), at)
                    corners = at[0] - 1, at[1] - 1, at[0] + self._cell[0], at[1] + self._cell[1]
                    pen.rectangle(corners, outline="gainsboro")
                    under = at[1] + self._cell[1] + 2
                    _write(pen, at[0], under, self._label(label), "dimgray")
            top += extent
        return page

    @property
    def _top(self) -> int:
        return MARGIN + (_text_height(len(self._title)) + MARGIN if self._title else 0)

    def _label(self, text: str) -> list[str]:
        return wrapped(text, self._cell[0], LABEL_LINES) if text else []

    def _lines(self, strip: Sequence[SheetGroup]) -> "list[_Line]":
        """A strip's lines of images with their heights; headings stand over the first."""
        headings = [
            wrapped(group.heading, self._block - GAP, LABEL_LINES) if group.heading else [] for group in strip
        ]
        lines = []
        longest, above_all = max(len(group.cells) for group in strip), any(headings)
        for start in range(0, longest, self._across):
            parts = [
                (heading if start == 0 else [], group.cells[start : start + self._across])
                for heading, group in zip(headings, strip, strict=True)
            ]
            labels = max((len(self._label(label)) for _, cells in parts for _, label in cells), default=0)
            above = max(len(heading) for heading, _ in parts)
            below = MARGIN + (GAP if start + self._across >= longest and above_all else 0)
            lines.append((parts, _text_height(above) + self._cell[1] + _text_height(labels) + below))
        return lines


_Line = tuple[list[tuple[list[str], Sequence[tuple[Path, str]]]], int]
"""For each group beside the others its heading and its images; and the line's height in pixels."""


@lru_cache(maxsize=4096)
def wrapped(text: str, width: int, lines: int) -> list[str]:
    """Text broken at spaces into lines of at most `width` pixels; what does not fit ends in an ellipsis."""
    words = spelled(text).split()
    made: list[str] = []
    line = ""
    place = 0
    while place < len(words):
        word = words[place]
        longer = f"{line} {word}" if line else word
        if text_length(longer[:200], FONT_SIZE) <= width and len(longer) <= 200:
            line, place = longer, place + 1
            continue
        if not line:  # one word is wider than the line
            fits = max(_fitting(word, width), 1)
            line, words[place] = word[:fits], word[fits:]
        made.append(line)
        line = ""
        if len(made) == lines:
            return [*made[:-1], _ended(made[-1], width)]
    return [*made, line] if line else made


def _fitting(text: str, width: float) -> int:
    """How many of a text's first characters fit into `width` pixels."""
    lengths = range(1, min(len(text), 400) + 1)
    return bisect_right(lengths, width, key=lambda count: text_length(text[:count], FONT_SIZE))


def _ended(text: str, width: int) -> str:
    return text[: _fitting(text, width - text_length("…", FONT_SIZE))].rstrip() + "…"


def _write(pen: ImageDraw.ImageDraw, left: int, top: int, lines: Sequence[str], colour: str) -> None:
    for number, line in enumerate(lines):
        draw_text(pen, left, top + _text_height(number), line, FONT_SIZE, colour)


def _text_height(lines: int) -> int:
    return lines * (FONT_SIZE + 4)


def _open(file: Path) -> Image.Image:
    with made_again(file):
        return open_image(file)


def _thumbnail(file: Path, cell: tuple[int, int]) -> Image.Image:
    """The image scaled down to fit into a cell, in its middle."""
    image = _open(file)
    scale = min(cell[0] / image.width, cell[1] / image.height, 1.0)
    size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
    small = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0) if size != image.size else image
    place = Image.new("RGB", cell, "white")
    place.paste(small, ((cell[0] - size[0]) // 2, (cell[1] - size[1]) // 2))
    return place

"""A contact sheet: every image of a run, labelled, in a few pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from lab.files import atomic

COLUMNS = 8
THUMBNAIL = 256
MARGIN = 8
MAX_HEIGHT = 16_000
"""Pixels of a page: some viewers refuse taller pictures."""


@dataclass(frozen=True)
class Row:
    """A heading with the images under it: (file, label) each."""

    heading: str
    cells: Sequence[tuple[Path, str]]


def write_sheets(path: Path, rows: Sequence[Row], columns: int = COLUMNS) -> list[Path]:
    """Draws the rows, wrapped after `columns` images, over as many pages as they need.

    Returns:
        The files written: `path`, then `path` with -2, -3, ... before its suffix.
    """
    columns = max(min(columns, max(len(row.cells) for row in rows)), 1)
    lines = [
        Row(row.heading if start == 0 else "", row.cells[start : start + columns])
        for row in rows
        for start in range(0, len(row.cells), columns)
    ]
    with Image.open(lines[0].cells[0][0]) as first:
        cell = _fitted(first.size)
    font = ImageFont.load_default(size=13)
    text_height = round(font.getbbox("Ag")[3]) + 4
    line_height = text_height * 2 + cell[1] + MARGIN
    a_page = max(MAX_HEIGHT // line_height, 1)
    written = []
    for number, start in enumerate(range(0, len(lines), a_page), start=1):
        name = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        page = _draw(lines[start : start + a_page], columns, cell, line_height, text_height, font)
        with atomic(name) as temporary:
            page.save(temporary)
        written.append(name)
    return written


def _draw(
    lines: Sequence[Row],
    columns: int,
    cell: tuple[int, int],
    line_height: int,
    text_height: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> Image.Image:
    width = MARGIN + columns * (cell[0] + MARGIN)
    page = Image.new("RGB", (width, MARGIN + line_height * len(lines)), "white")
    pen = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        top = MARGIN + number * line_height
        pen.text((MARGIN, top), _shortened(line.heading, width - 2 * MARGIN, font), fill="black", font=font)
        for column, (file, label) in enumerate(line.cells):
            left = MARGIN + column * (cell[0] + MARGIN)
            with Image.open(file) as image:
                thumbnail = image.convert("RGB").resize(_fitted(image.size), Image.Resampling.LANCZOS)
            page.paste(thumbnail, (left, top + text_height))
            under = top + text_height + cell[1]
            pen.text((left, under), _shortened(label, cell[0], font), fill="dimgray", font=font)
    return page


def _fitted(size: tuple[int, int]) -> tuple[int, int]:
    scale = min(THUMBNAIL / max(size), 1.0)
    return round(size[0] * scale), round(size[1] * scale)


def _shortened(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"

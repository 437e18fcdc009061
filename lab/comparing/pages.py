"""Images inside pages: each embedded once, and no page larger than browsers like."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from lab.comparing.experiment import Cell, Experiment

PAGE_BYTES = 24 * 2**20
"""Bytes of images in a page, up to which it gets more rows."""

Pair = tuple[int, int]


class Pictures:
    """The images of a page, by their index; each is written into it once."""

    def __init__(self, files: Mapping[int, Path]):
        self._files = files
        self._written: set[int] = set()

    def source(self, index: int) -> Markup:
        """The attributes of an `img`: the image itself, or from the second time on where the page has it."""
        if index in self._written:
            return Markup('data-same="{}"').format(index)
        self._written.add(index)
        return Markup('id="picture-{}" src="{}"').format(index, image_uri(self._files[index].read_bytes()))


def image_uri(data: bytes) -> str:
    """A PNG image as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def paged(experiment: Experiment, files: Mapping[int, Path], shown: Iterable[Cell] = ()) -> list[list[Pair]]:
    """Divides the pairs, in order, over pages of at most `PAGE_BYTES` of images (but at least one pair each).

    Args:
        shown: Cells that the first page shows beside its rows.
    """
    pages: list[list[Pair]] = [[]]
    held = {cell.picture for cell in shown}
    room = PAGE_BYTES - _size(files, held)
    for prompt in range(len(experiment.prompts)):
        for seed in range(len(experiment.seeds)):
            cells = {experiment.cell(variant, prompt, seed).picture for variant in experiment.variants}
            if pages[-1] and _size(files, cells - held) > room:
                pages.append([])
                held, room = set(), PAGE_BYTES
            room -= _size(files, cells - held)
            held |= cells
            pages[-1].append((prompt, seed))
    return pages


def _size(files: Mapping[int, Path], pictures: Iterable[int]) -> int:
    return sum(files[index].stat().st_size * 4 // 3 for index in pictures)


def rows_of(pairs: Sequence[Pair]) -> list[tuple[int, list[int]]]:
    """Pairs by prompt: (prompt, its seeds) in order."""
    rows: dict[int, list[int]] = {}
    for prompt, seed in pairs:
        rows.setdefault(prompt, []).append(seed)
    return list(rows.items())

"""Generated images with their records, in memory or on disk, as Python and a notebook see them."""

import base64
import html
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from lab.images import open_image
from lab.runs.png import record_beside

SHOWN = 48
"""Images of a list that a notebook shows."""

THUMBNAIL = 192
"""Pixels of the longer side of an image that a notebook shows among others."""


class Result:
    """One generated image. In a notebook it shows itself.

    Attributes:
        index: Its place: prompt-major, then seeds.
        latents: (c, h, w) float32 on the CPU, or None for an image that went to disk.
        path: The PNG on disk, or None for an image in memory.
    """

    def __init__(
        self,
        index: int,
        latents: Tensor | None = None,
        image: Image.Image | None = None,
        record: dict[str, Any] | None = None,
        path: Path | None = None,
    ):
        """Takes image and record, or the path where both are; they are read when they are asked for."""
        self.index = index
        self.latents = latents
        self.path = path
        self._image = image
        self._record = record

    @property
    def image(self) -> Image.Image:
        """The image, RGB; one on disk is opened anew each time, so that thousands need no memory."""
        if self._image is not None:
            return self._image
        assert self.path is not None
        return open_image(self.path)

    @property
    def record(self) -> dict[str, Any]:
        """Everything that made the image, as plain JSON values."""
        if self._record is None:
            assert self.path is not None
            self._record = record_beside(self.path)
        return self._record

    def __repr__(self) -> str:
        return f"Result({self.index}, prompt={self.record['prompt']!r}, seed={self.record['seed']})"

    def _repr_png_(self) -> bytes:
        return _png(self.image)


class Results(list[Result]):
    """The images of a run, in the order asked for. In a notebook they show themselves side by side.

    Attributes:
        folder: Where they are on disk, or None.
    """

    def __init__(self, results: Iterable[Result], folder: Path | None = None):
        super().__init__(results)
        self.folder = folder

    def _repr_html_(self) -> str:
        figures = "".join(_figure(result) for result in self[:SHOWN])
        more = f"<p>and {len(self) - SHOWN} more</p>" if len(self) > SHOWN else ""
        return f'<div style="display:flex;flex-wrap:wrap;gap:8px">{figures}</div>{more}'


def _figure(result: Result) -> str:
    small = result.image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    data = base64.b64encode(_png(small)).decode()
    prompt, seed = html.escape(result.record["prompt"]), result.record["seed"]
    return (
        f'<figure style="margin:0;width:{small.width}px">'
        f'<img src="data:image/png;base64,{data}" alt="{prompt}" title="{prompt}">'
        f'<figcaption style="overflow-wrap:anywhere">{prompt}, seed {seed}</figcaption></figure>'
    )


def _png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()

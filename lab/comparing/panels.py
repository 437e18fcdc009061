"""What a report shows beside its own plots and grids: pictures with captions, from whoever can draw them."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """One picture of a panel.

    Attributes:
        data: PNG bytes, or the text of an SVG element.
        caption: A few words under it.
        alt: What it shows, for those who cannot see it.
    """

    data: bytes | str
    caption: str
    alt: str


@dataclass(frozen=True)
class Panel:
    """A section of the report, such as the heat maps of a pair or the geometry of the embeddings compared."""

    title: str
    text: str
    pictures: Sequence[Picture]

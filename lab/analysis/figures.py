"""Matplotlib figures as files, and as SVG elements for a page that is light or dark."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

from lab.errors import InputError
from lab.files import atomic
from lab.fonts import SHIPPED, SHIPPED_FAMILY, spelled

if TYPE_CHECKING:  # a wrong file name is told before matplotlib is imported
    from matplotlib.figure import Figure

INK = "#010203"
"""The colour of text and axes; in a page it becomes the text's own colour."""

_STYLE: Any = {  # matplotlib's own type lists every parameter by name
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.family": ["DejaVu Sans", SHIPPED_FAMILY],
    "font.size": 9,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "lab",  # the same figure gives the same bytes
    "text.parse_math": False,  # a dollar sign in a prompt is a dollar sign
}

_DRAWING = RLock()
"""Held while the style is in force, as it is that of the whole process: a server draws in several threads."""


@contextmanager
def _styled() -> Iterator[None]:
    """The lab's style and fonts; of characters that none of them has matplotlib says nothing."""
    import matplotlib
    from matplotlib import font_manager

    if all(font.fname != str(SHIPPED) for font in font_manager.fontManager.ttflist):
        font_manager.fontManager.addfont(SHIPPED)
    with _DRAWING, matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


@contextmanager
def drawing(width: float, height: float) -> Iterator["Figure"]:
    """Yields an empty figure of so many inches to draw in; the lab's style is in force inside the block."""
    from matplotlib.figure import Figure

    with _styled():
        yield Figure(figsize=(width, height), layout="constrained")


def as_svg(figure: "Figure") -> str:
    """An SVG element without background that takes the colour of the text around it."""
    stream = io.StringIO()
    with _styled():
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def save_figure(figure: "Figure", path: Path) -> None:
    """Writes a figure as the suffix says: .png or .svg.

    Raises:
        InputError: another suffix, or the file cannot be written.
    """
    form = check_suffix(path)
    metadata = {"Date": None} if form == "svg" else None
    with _styled(), atomic(path) as temporary:
        if form == "png":  # whoever shows an SVG has other fonts
            _spell(figure)
        figure.savefig(temporary, format=form, dpi=150, facecolor="white", metadata=metadata)


def _spell(figure: "Figure") -> None:
    """Puts words in place of the characters that no font has, which would be boxes."""
    from matplotlib.text import Text

    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        labels = [label.get_text() for label in axis.get_ticklabels()]
        said = [spelled(label, in_figures=True) for label in labels]
        if said != labels:  # which drawing would set back
            axis.set_ticklabels(said)
    for text in figure.findobj(Text):
        text.set_text(spelled(text.get_text(), in_figures=True))


def check_suffix(path: Path) -> str:
    """The format that a plot's file name asks for: `png` or `svg`.

    Raises:
        InputError: neither .png nor .svg.
    """
    form = path.suffix.lower().removeprefix(".")
    if form not in ("png", "svg"):
        raise InputError(f"{path}: plots are written as .png or .svg; name the file so")
    return form

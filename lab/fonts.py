"""Fonts for texts of any script: which one has which characters, how wide a text is, and how it is drawn.

DejaVu Sans, which comes with matplotlib, has Latin, Greek, Cyrillic, Arabic and many signs. The lab ships the
characters that Japanese and Chinese are mostly written with. What neither has is looked for among the fonts that
systems bring, and what none has is said in words.
"""

import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib.util import find_spec
from itertools import groupby, islice
from pathlib import Path

from PIL import ImageDraw, ImageFont

SHIPPED = Path(__file__).parent / "assets" / "fonts" / "NotoSansCJKjp-Subset.otf"
SHIPPED_FAMILY = "Noto Sans CJK JP"

_OF_SYSTEMS = {
    "/usr/share/fonts": (
        "NotoSansCJK-Regular.ttc NotoSansCJKjp-Regular.otf wqy-zenhei.ttc DroidSansFallbackFull.ttf "
        "NotoSansHebrew-Regular.ttf NotoSansDevanagari-Regular.ttf NotoSansThai-Regular.ttf NotoEmoji-Regular.ttf"
    ),
    "/System/Library/Fonts": "Hiragino Sans GB.ttc AppleSDGothicNeo.ttc Supplemental/Arial Unicode.ttf",
    "C:/Windows/Fonts": "msgothic.ttc msyh.ttc malgun.ttf segoeui.ttf",
}
"""Folders and the fonts of other scripts that are often in them; only regular ones are looked for."""


def font_files() -> Iterator[Path]:
    """The fonts that texts are drawn in, the first that has a character for it; those of the system are found late."""
    matplotlib = find_spec("matplotlib")  # found, not imported: that would take a moment
    for folder in (matplotlib.submodule_search_locations or []) if matplotlib else []:
        yield Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
    yield SHIPPED
    yield from _of_the_system()


@cache
def _of_the_system() -> tuple[Path, ...]:
    found = []
    for folder, names in _OF_SYSTEMS.items():
        if Path(folder).is_dir():
            wanted = {name.lower() for name in names.split()}
            found += [
                path for path in sorted(Path(folder).rglob("*.[ot]t[fc]")) if path.name.lower() in wanted
            ]
    return tuple(found)


@cache
def _characters(file: Path) -> frozenset[int]:
    """The characters of a font; none of one that cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(str(file)).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


@lru_cache(maxsize=4096)
def _file_with(character: str) -> Path | None:
    """The first font with a character; None where the usual one is best: it has it, or no font has."""
    if character < "\u0250":  # Latin, in every font
        return None
    files = font_files()
    usual = next(files)
    if character.isspace() or ord(character) in _characters(usual):
        return None
    return next((file for file in files if ord(character) in _characters(file)), None)


@lru_cache(maxsize=4096)
def _in_words(character: str, in_figures: bool) -> str | None:
    """What stands for a character that no font has; None for one that can be drawn, "" for one that is not seen."""
    if character < "\u0250" or character.isspace():
        return None
    files = islice(font_files(), 2 if in_figures else None)
    if any(ord(character) in _characters(file) for file in files):
        return None
    name, kind = unicodedata.name(character, ""), unicodedata.category(character)
    if kind in ("Cf", "Mn", "Sk"):  # joiners, signs above others, colours of skin
        return ""
    if not name:
        return f"U+{ord(character):X}"
    return name.split()[0].capitalize() if kind[0] in "LMN" else name.lower()


def spelled(text: str, in_figures: bool = False) -> str:
    """A text with what no font has in words: `[Hangul]` for letters of a script, `[unicorn face]` for an emoji.

    Args:
        in_figures: It is drawn by matplotlib, which is told of the usual font and of the one that ships.
    """
    if text.isascii():
        return text
    parts = groupby(text, lambda character: _in_words(character, in_figures))
    return "".join("".join(run) if said is None else said and f"[{said}]" for said, run in parts)


@cache
def _font(file: Path | None, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    file = file or next(font_files())
    return ImageFont.truetype(str(file), size) if file.is_file() else ImageFont.load_default(size=size)


def _parts(text: str, size: int) -> Iterator[tuple[ImageFont.FreeTypeFont | ImageFont.ImageFont, str]]:
    """The parts of a text that one font has, in their order."""
    if text.isascii():
        yield _font(None, size), text
        return
    start, used = 0, None
    for place, character in enumerate(text):
        file = _file_with(character)
        if file != used:
            if place > start:
                yield _font(used, size), text[start:place]
            start, used = place, file
    if text[start:]:
        yield _font(used, size), text[start:]


def text_length(text: str, size: int) -> float:
    """How wide a text is drawn, in pixels."""
    return sum(font.getlength(part) for font, part in _parts(text, size))


def draw_text(pen: ImageDraw.ImageDraw, left: float, top: float, text: str, size: int, colour: str) -> None:
    """Draws a line of text; all its fonts stand on one baseline."""
    for font, part in _parts(text, size):
        pen.text((left, top + size), part, fill=colour, font=font, anchor="ls")
        left += font.getlength(part)

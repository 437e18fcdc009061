"""Text of prompts: files of them, and what no prompt can hold."""

import re
from pathlib import Path

from lab.errors import InputError
from lab.files import read_text

_LINE_END = re.compile(r"\r\n|\r|\n")
_A1111_OPTIONS = (
    "sd_model outpath_samples outpath_grids prompt_for_display prompt negative_prompt styles seed subseed_strength "
    "subseed seed_resize_from_h seed_resize_from_w sampler_index sampler_name batch_size n_iter steps cfg_scale width "
    "height restore_faces tiling do_not_save_samples do_not_save_grid"
)
_OPTIONS = re.compile(rf"--(?:{'|'.join(_A1111_OPTIONS.split())})\b|.*\s--(?:n\s|[wdhls]\s+[\d.]+(?:\s|$))")
"""Of A1111's script "Prompts from file or textbox" at a line's beginning; of kohya's sample prompts behind the text."""


def split_lines(text: str) -> list[str]:
    r"""The lines of a text without the spaces around them. Only \n, \r\n and \r end one, as editors count.

    A byte order mark (U+FEFF) at a line's beginning, which files put together can have anywhere, is dropped.
    """
    return [line.strip().removeprefix("\ufeff").strip() for line in _LINE_END.split(text)]


def read_lines(path: Path) -> list[str]:
    """The prompts of a UTF-8 file, one a line; empty lines and lines that begin with # are left out.

    Raises:
        InputError: the file is missing, empty, not text, or written for a script of another tool.
    """
    return [prompt for _, prompt in read_numbered_lines(path)]


def read_numbered_lines(path: Path) -> list[tuple[int, str]]:
    """The prompts of a file as `read_lines` reads them, each with the number of its line, from 1.

    Raises:
        InputError: the file is missing, empty, not text, or written for a script of another tool.
    """
    lines = split_lines(read_text(path.expanduser(), "prompts"))
    prompts = [
        (number, line) for number, line in enumerate(lines, start=1) if line and not line.startswith("#")
    ]
    if not prompts:
        raise InputError(f"{path}: holds no prompt; write one a line")
    for number, line in prompts:
        if _OPTIONS.match(line):
            raise InputError(
                f"{path}:{number}: options of another tool (A1111's prompts from file, kohya's sample prompts) stand "
                f"in the line '{line[:60]}'; write the prompt alone, and give settings as the lab's own options"
            )
    return prompts


def shortened(text: str, most: int = 60) -> str:
    """A text for a line of an error or a note: what is longer ends in three dots."""
    return text if len(text) <= most + 20 else f"{text[:most]}..."


def counted(number: int, thing: str) -> str:
    """A number of things: `1 image`, `2 images`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


MAX_CHARACTERS = 100_000
"""Of a prompt: at 77 tokens a chunk, what is longer takes minutes and gigabytes, and is a mistake."""


def check_prompt(prompt: object) -> str:
    """Returns a prompt that is a text of a length that can be encoded.

    Raises:
        InputError: no text, or over 100,000 characters.
    """
    if not isinstance(prompt, str):
        raise InputError(f"prompt: expected a text, not {type(prompt).__name__}")
    if len(prompt) > MAX_CHARACTERS:
        raise InputError(
            f"'{shortened(prompt)}': a prompt of {len(prompt):,} characters; {MAX_CHARACTERS:,} at most can be encoded"
        )
    return prompt


def check_text(text: str) -> None:
    """Refuses a text with half a character: what is left of an emoji that was cut, or bytes that are not UTF-8.

    Raises:
        InputError: it holds a surrogate code point (U+D800 to U+DFFF).
    """
    half = re.search("[\ud800-\udfff]", text)
    if half:
        raise InputError(
            f"{text[:60]!a}: character {half.start() + 1} of the prompt is half a character (a cut emoji, or "
            "bytes that are not UTF-8); write it again"
        )

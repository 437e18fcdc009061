"""Text files of prompts."""

from pathlib import Path

from lab.errors import InputError


def read_lines(path: Path) -> list[str]:
    """The prompts of a UTF-8 file, one a line; empty lines and lines that begin with # are left out.

    Raises:
        InputError: the file is missing, empty or not text.
    """
    return [prompt for _, prompt in read_numbered_lines(path)]


def read_numbered_lines(path: Path) -> list[tuple[int, str]]:
    """The prompts of a file as `read_lines` reads them, each with the number of its line, from 1.

    Raises:
        InputError: the file is missing, empty or not text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(f"{path}: cannot read prompts: {reason}") from None
    prompts = [
        (number, line.strip())
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.startswith("#")
    ]
    if not prompts:
        raise InputError(f"{path}: holds no prompt; write one a line")
    return prompts

"""Text files of prompts."""

from pathlib import Path

from lab.errors import InputError


def read_lines(path: Path) -> list[str]:
    """The prompts of a UTF-8 file, one a line; empty lines and lines that begin with # are left out.

    Raises:
        InputError: the file is missing, empty or not text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(f"{path}: cannot read prompts: {reason}") from None
    prompts = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not prompts:
        raise InputError(f"{path}: holds no prompt; write one a line")
    return prompts

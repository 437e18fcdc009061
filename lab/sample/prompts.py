"""The prompts of a run: from flags, and from a file with one a line."""

from pathlib import Path

from lab.errors import InputError
from lab.sample.config import GenerateConfig


def read_prompts(config: GenerateConfig) -> list[str]:
    """The prompts in the order given, those of the file last.

    Raises:
        InputError: no prompt at all, prompts beside prompt embeddings, or a prompt file that is missing, empty or
            not text.
    """
    prompts = list(config.prompt)
    if config.prompt_file is not None:
        prompts += read_lines(config.prompt_file)
    if prompts and config.embeds is not None:
        raise InputError("embeds: take the place of prompts; give prompts or --embeds, not both")
    if not prompts and config.embeds is None:
        raise InputError("prompt: there is none; give --prompt, --prompt-file or --embeds")
    return prompts


def read_lines(path: Path) -> list[str]:
    """The prompts of a file; empty lines and lines that begin with # are left out.

    Raises:
        InputError: missing, empty or not text.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(f"{path}: cannot read prompts: {reason}") from None
    prompts = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not prompts:
        raise InputError(f"{path}: holds no prompt; write one a line")
    return prompts

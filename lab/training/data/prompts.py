"""Prompts to make images of: what a run learns from that has no images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.text import read_lines
from lab.training.config import TrainConfig
from lab.training.data.latents import Progress

SHOWN = 20


@dataclass(frozen=True)
class PromptData:
    """Prompts, and by what the images made of them are judged: a `Material`.

    Attributes:
        judges: Where the judges come from, by their names.
    """

    prompts: Sequence[str]
    judges: dict[str, str]
    images: Sequence[Path] = ()
    skipped: Sequence[str] = ()

    def fingerprint(self) -> dict[str, str]:
        """The prompts by number, and the judges."""
        return {f"prompt {number}": prompt for number, prompt in enumerate(self.prompts, 1)} | self.judges

    def describe(self) -> Iterator[str]:
        """Yields the prompts."""
        yield f"{len(self.prompts)} prompts, of which images are made in every step:"
        yield from (f"  {prompt}" for prompt in self.prompts[:SHOWN])
        if len(self.prompts) > SHOWN:
            yield f"  ... and {len(self.prompts) - SHOWN} more"

    def make_ready(self, on_progress: Progress | None = None) -> None:
        """Nothing takes its time here."""


def read_prompt_data(bundle: Bundle, config: TrainConfig) -> PromptData:
    """Reads the prompts of a config.

    Raises:
        InputError: no file, or one without prompts.
    """
    if config.prompt_file is None:
        raise InputError(
            "prompt_file: a reward needs prompts to make images of; give a file with --prompt-file"
        )
    judges = {
        name: str(getattr(config, name))
        for name in ("clip", "pickscore", "aesthetic", "quality")
        if getattr(config, name) is not None
    }
    return PromptData(read_lines(config.prompt_file), judges)

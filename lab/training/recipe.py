"""A run's recipe, for files that people share: how it was learned, without the folders of the machine it ran on."""

from pathlib import PurePath
from typing import Any

from lab.training.config import RunOptions, TrainConfig

HERE_ONLY = {*RunOptions.model_fields, "device"}
"""Settings that say where a run was done and what it left there, not how the vectors were learned."""


def recipe(config: TrainConfig) -> dict[str, Any]:
    """The settings that learn the same elsewhere, as JSON takes them; paths are their last components."""
    settings = config.model_dump(exclude=HERE_ONLY, exclude_none=True)
    return {key: _portable(value) for key, value in settings.items()}


def without_folders(text: str) -> str:
    """A setting that may be a path, by its last component: of `file:FOLDER/x.pt` that is `file:x.pt`."""
    if text.startswith(("hub:", "text:")) or "{" in text:  # a repository, words, a caption template
        return text
    mark = "file:" if text.startswith("file:") else ""
    return mark + PurePath(text.removeprefix(mark)).name


def _portable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _portable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_portable(each) for each in value]
    if isinstance(value, PurePath):
        return value.name
    return without_folders(value) if isinstance(value, str) else value

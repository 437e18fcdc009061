"""The options of judging images, each defined once: YAML keys, flags and keyword arguments come from here."""

from pathlib import Path

from pydantic import Field

from lab.config import Config


class JudgeOptions(Config):
    """Who judges images besides CLIP."""

    pickscore: Path | None = None
    """Folder with PickScore, a CLIPModel that predicts people's choices (Kirstain et al. 2305.01569)."""

    aesthetic: Path | None = None
    """File with an aesthetic head on CLIP features: one linear layer, or LAION's stack of five."""

    quality: Path | None = None
    """Folder of a classifier of clean and degraded images; by default the model's own, if it has one."""


class ScoreOptions(JudgeOptions):
    """How images are judged."""

    metrics: list[str] = Field(default_factory=list)
    """Which metrics; by default all that can run with what is given. Repeatable."""

    references: Path | None = None
    """Folder of images to compare with (clip_reference, cmmd)."""

    clip: Path | None = None
    """Folder with a CLIPModel to judge with; by default the model's own."""

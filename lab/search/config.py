"""The options of search, each defined once: YAML keys, flags and keyword arguments come from here."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from lab.condition.config import Dialect
from lab.condition.pooling import Pool
from lab.config import Config
from lab.models.config import ModelOptions

IndexKind = Literal["flat-ip", "flat-l2", "ivf"]


class SearchOptions(Config):
    """What to look for, and where."""

    text: list[str] = Field(default_factory=list)
    """Looks for what is near a text, which may name embeddings; repeatable."""

    image: list[Path] = Field(default_factory=list)
    """Looks for what is near an image; repeatable."""

    embedding: list[str] = Field(default_factory=list)
    """A learned embedding, FILE or FILE=name, that texts may name; without text and image, it is what to look for."""

    embeddings: list[Path] = Field(default_factory=list)
    """A folder of learned embeddings that texts may name, repeatable."""

    over: list[str] = Field(default_factory=list)
    """What is searched: prompts:FILE (one a line), images:FOLDER, embeddings:FOLDER or vocabulary; repeatable."""

    index: Path | None = None
    """Folder of an index: made from --over if it is not there, added to if it is, searched either way."""

    kind: IndexKind | None = None
    """Of a new index: flat-ip (exact, by cosine; the default), flat-l2 (exact, by distance), ivf (nearly exact, by
    cosine, for hundreds of thousands of entries)."""

    pooling: Pool | None = None
    """Of a new index, what stands for a text: its end token's state (eos, the default, which alone compares with
    images), the mean over its words, or its first word's, which has seen nothing but that word."""

    clip: Path | None = None
    """Folder with a CLIPModel to compare with; by default the model's own encoders."""

    dialect: Dialect = "a1111"
    """The prompt syntax of texts. Weights play no part."""

    top: int = Field(10, ge=1)
    """How many neighbours are shown."""


class SearchConfig(SearchOptions, ModelOptions):
    """One search."""

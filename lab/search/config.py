"""The options of search, each defined once: YAML keys, flags and keyword arguments come from here."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from lab.condition.conditioning import Pool
from lab.config import Config, ExistingFile, ExistingFolder, ExistingPath, NewPath, one_of
from lab.embeddings.library import check_embedding_source
from lab.files import is_folder
from lab.models.config import ModelOptions
from lab.prompt.dialects import DIALECTS
from lab.search.sources import check_source

IndexKind = Literal["flat-ip", "flat-l2", "ivf"]


class SearchOptions(Config):
    """What to look for, and where."""

    text: list[str] = Field(default_factory=list)
    """Looks for what is near a text, which may name embeddings; repeatable."""

    image: list[ExistingFile] = Field(default_factory=list)
    """Looks for what is near an image; repeatable."""

    embedding: list[Annotated[str, AfterValidator(check_embedding_source)]] = Field(default_factory=list)
    """A learned embedding, FILE or FILE=name, that texts may name; without text and image, it is what to look for."""

    embeddings: list[ExistingPath] = Field(default_factory=list)
    """A file or folder of learned embeddings that texts may name, repeatable."""

    over: list[Annotated[str, AfterValidator(check_source)]] = Field(default_factory=list)
    """What is searched: prompts:FILE (one a line), images:FOLDER, embeddings:FOLDER or vocabulary; repeatable."""

    index: NewPath | None = None
    """Folder of an index: made from --over if it is not there, added to if it is, searched either way."""

    kind: IndexKind | None = None
    """Of a new index: flat-ip (exact, by cosine; the default), flat-l2 (exact, by distance), ivf (nearly exact, by
    cosine, for hundreds of thousands of entries)."""

    pooling: Pool | None = None
    """Of a new index, what stands for a text: its end token's state (eos, the default, which alone compares with
    images), the mean over its words, or its first word's, which has seen nothing but that word."""

    clip: ExistingFolder | None = None
    """Folder with a CLIPModel to compare with; by default the model's own encoders."""

    dialect: Annotated[str, one_of(DIALECTS, "dialect")] = "a1111"
    """The prompt syntax of texts. Weights play no part."""

    top: int = Field(10, ge=1)
    """How many neighbours are shown."""


class SearchConfig(SearchOptions, ModelOptions):
    """One search."""

    @model_validator(mode="after")
    def _check_asked(self) -> Self:
        if not self.over and self.index is None:
            raise ValueError(
                "there is nothing to search; give --over prompts:FILE, images:FOLDER, "
                "embeddings:FOLDER or vocabulary, or a saved --index"
            )
        if not (self.text or self.image or self.embedding or (self.over and self.index)):
            raise ValueError("there is nothing to look for; give --text, --image or --embedding")
        if not self.over and self.index is not None and not is_folder(self.index):
            raise ValueError(f"{self.index}: no index there; make one with --over")
        return self

"""The options of search and of composing prompts, each defined once: YAML keys, flags and keyword arguments come from
here.
"""

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from lab.condition.conditioning import Pool
from lab.config import Config, ExistingFile, ExistingFolder, ExistingPath, NewPath, one_of
from lab.embeddings.library import check_embedding_source
from lab.errors import did_you_mean
from lab.files import is_folder
from lab.models.config import ModelOptions
from lab.prompt.dialects import DIALECTS
from lab.search.prompt_library import aspects
from lab.search.sources import check_source
from lab.text import check_prompt

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


MAX_COMPOSED = 1000
"""Prompts in one go."""


def _check_address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"'{url}' is no address; write it like http://127.0.0.1:8000/v1")
    return url


def _check_words(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty; write a word or a few")
    return check_prompt(text)


Words = Annotated[str, AfterValidator(_check_words)]
"""A text that says something."""


class ComposeOptions(Config):
    """What prompts are put together from."""

    keyword: list[Words] = Field(default_factory=list)
    """What prompts are about; repeatable. Those nearest to it come of the library."""

    about: list[Words] = Field(default_factory=list)
    """What each prompt also says something about, such as technique, colour, mood, light or view; repeatable. By
    default what the library's own lines say."""

    library: ExistingFile | None = None
    """A text file with one prompt a line, whose parts between commas are put together anew; by default 2,000 that come
    with the lab: for the bundled model the things that it draws, for others scenes of all kinds."""

    count: int = Field(8, ge=1, le=MAX_COMPOSED)
    """How many prompts."""

    seed: int = Field(0, ge=0)
    """Another one puts other parts together."""

    name_keywords: bool | None = None
    """Whether prompts have the keywords in them; by default yes, but not for the bundled model, in whose images words
    that it does not draw disturb."""

    out: NewPath | None = None
    """File for the prompts, one a line, which `lab generate --prompt-file` takes; they are printed either way."""

    then_generate: int = Field(0, ge=0, le=MAX_COMPOSED)
    """Makes images of the best so many, as `lab generate` makes them by default."""


class ChatOptions(Config):
    """A chat server in the library's place.

    It writes the prompts, and is asked by OpenAI's API.
    """

    chat_url: Annotated[str, AfterValidator(_check_address)] | None = None
    """Its address, such as http://127.0.0.1:8000/v1: of `transformers serve`, llama.cpp, vLLM, Ollama, OpenAI, ..."""

    chat_model: str | None = None
    """Which of its models writes; by default the first that it lists."""

    chat_key_env: str | None = None
    """The environment variable that holds the key for it; by default none is sent."""

    chat_timeout: float = Field(120, gt=0, le=3600)
    """Seconds after which an answer is given up."""

    role: Words | None = None
    """Who writes: by default an artist who writes prompts for text-to-image models."""

    condition: list[Words] = Field(default_factory=list)
    """What prompts have to keep to, such as "at most 30 words"; repeatable."""

    language: list[Words] = Field(default_factory=list)
    """A language that prompts are written in; repeatable, by default English."""


class ComposeConfig(ComposeOptions, ChatOptions, ModelOptions):
    """Prompts from keywords."""

    @model_validator(mode="after")
    def _check_asked(self) -> Self:
        if not self.keyword:
            raise ValueError("keyword: there is none; say with --keyword what the prompts are to be about")
        if self.then_generate > self.count:
            raise ValueError(f"then_generate: {self.then_generate} of {self.count} prompts; raise --count")
        if self.chat_url is None:
            given = next((name for name in ChatOptions.model_fields if name in self.model_fields_set), None)
            if given is not None:
                raise ValueError(f"{given}: is for a chat server; give its --chat-url, or leave it out")
        else:
            for name in ("library", "seed", "name_keywords"):
                if getattr(self, name) != ComposeOptions.model_fields[name].default:
                    raise ValueError(
                        f"{name}: a chat server takes the library's place; leave one of them out"
                    )
        if self.chat_url is None and self.library is None:
            known = {*aspects("emoji"), *aspects("general")}
            for aspect in self.about:
                if aspect not in known:
                    raise ValueError(
                        f"about: the prompts that come with the lab say nothing of '{aspect}'"
                        f"{did_you_mean(aspect, known)}; a --library of your own or a chat server may"
                    )
        return self

"""What a run learns, and from which images and captions: options. Imports no torch."""

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from pydantic import (
    AfterValidator,
    Field,
    PlainSerializer,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    model_serializer,
    model_validator,
)

from lab.config import Config, ExistingFolder, ExistingPath, at_home, one_of
from lab.files import is_there
from lab.training.objectives.objective import OBJECTIVES
from lab.training.option_types import MAX_VECTORS, Init, Lines, Name, Rate


def named_folder(text: Any) -> tuple[str, str] | None:
    """The two halves of NAME=FOLDER; None of what is a path itself, or no such text."""
    name, equals, folder = str(text).partition("=") if isinstance(text, (str, PurePath)) else ("", "", "")
    return (name, folder) if equals and name and folder and not is_there(at_home(Path(text))) else None


def _one_folder(value: list[str | Path] | None) -> Path | None:
    if value is None:
        return None
    if len(value) != 1:
        raise ValueError("several folders need a name each, as in a=FOLDER b=FOLDER")
    (text,) = value
    return TypeAdapter(ExistingFolder).validate_python(text)


def _as_written(value: Path | None, info: SerializationInfo) -> Path | str | None:
    return str(value) if value is not None and info.mode_is_json() else value


if TYPE_CHECKING:
    Images = Path | None
else:  # flags take several, of which `DataOptions` leaves one
    Images = Annotated[
        list[str | Path] | None,
        AfterValidator(_one_folder),
        PlainSerializer(_as_written),
        Parameter(consume_multiple=True),
    ]


ObjectiveName = Annotated[str, one_of(OBJECTIVES, "objective")]


class Subject(Config):
    """One embedding that a run learns."""

    name: Name
    images: ExistingFolder | None = None
    """A folder whose captions name this embedding, and others that have the same one; it is then learned as the first
    one is, but for what is said here. Without one, the captions of the first one's images name it too."""

    objective: ObjectiveName = "style"
    vectors: int = Field(1, ge=1, le=MAX_VECTORS)
    init: Init = "auto"
    learning_rate: Rate | None = None

    @model_serializer(mode="wrap")
    def _as_given(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What was said alone: read again, the rest is still as the first embedding's."""
        return {name: value for name, value in dump(self).items() if name in self.model_fields_set}


class DataOptions(Config):
    """What is learned, and from which images and captions."""

    images: Images = None
    """Folder of images (PNG, JPEG, WebP, ...). `FILE.txt` beside one holds its captions, `FILE.mask.png`
    (or -masklabel, _mask, -mask) its mask. Several things are learned at once from NAME=FOLDER NAME=FOLDER; if that is
    the same folder, its images show them all, and `FILE.NAME.mask.png` says where one of them is."""

    name: Name | None = None
    """What prompts will call the embedding: `<name>`."""

    objective: ObjectiveName = "concept"
    """What is learned: a thing, a style, a thing together with its negative (`pair`), a negative embedding from
    images of what is to be avoided (`negative`) or by a reward for better images (`reward`), what CLIP sees in images
    (`contrastive`), what words do (`text`), or a direction between two prompts (`slider`)."""

    embeddings: list[ExistingPath] = Field(default_factory=list)
    """A file or folder of other embeddings that captions and prompts may name, repeatable; they stay as they are."""

    more: list[Subject] = Field(default_factory=list)
    """Further embeddings learned in the same run: from the same images, whose captions then name all of them, or from
    folders of their own (YAML)."""

    captions: Literal["auto", "sidecar", "filename", "template"] = "auto"
    """Where captions come from; `auto` takes sidecar files where there are any, else templates."""

    templates: Lines = Field(default_factory=list)
    """Caption templates: sets (`object`, `style`), YAML files, or lines with {name} and {words}; repeatable."""

    shuffle_tags: bool = False
    """Puts a caption's comma-separated tags in another order each time."""

    keep_tags: int = Field(0, ge=0)
    """The first tags that shuffling and dropout leave alone."""

    tag_dropout: float = Field(0.0, ge=0, lt=1)
    """The share of tags left out each time; one with a placeholder always stays."""

    resolution: int | None = Field(None, ge=8, le=8192)
    """Pixels: images are scaled to about its square in area; by default the model's own size."""

    buckets: bool = True
    """Keeps images near their own aspect ratio; otherwise all are cut square."""

    crop: Literal["centre", "random"] = "centre"
    """Where an image is cut that does not fit its bucket."""

    crops: int = Field(4, ge=1, le=64)
    """With random crops: how many are made of each image, once."""

    flip: bool = False
    """Also learns from mirrored images."""

    alpha: Literal["composite", "weight"] = "composite"
    """What transparency does: shows the background, or also weights the loss."""

    background: str = "white"
    """The colour behind transparent images, by name or as #rrggbb."""

    skip_broken: bool = False
    """Leaves out images that cannot be read instead of stopping."""

    overwrite_token: bool = False
    """Allows a name that is a word of the model's vocabulary."""

    @model_validator(mode="before")
    @classmethod
    def _named_folders(cls, settings: Any) -> Any:
        """Takes NAME=FOLDER for a name with its images: the first for the run's own, whatever `name` says, the others
        for `more`."""
        given = settings.get("images") if isinstance(settings, Mapping) else None
        pairs = [named_folder(one) for one in (given if isinstance(given, list) else [given])]
        if not all(pairs):
            return settings
        first, *others = [dict(zip(("name", "images"), pair, strict=True)) for pair in pairs if pair]
        return {**settings, **first, "more": [*(settings.get("more") or []), *others]}

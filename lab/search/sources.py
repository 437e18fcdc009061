"""What can be searched: one reader for each kind of source, one table, which is read without the engine."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lab.config import at_home
from lab.errors import InputError, did_you_mean, keep_readable
from lab.files import is_there
from lab.listening import Listener

if TYPE_CHECKING:
    from lab.models.bundle import Bundle

IndexRowKind = Literal["prompt", "image", "embedding", "token"]


@dataclass(frozen=True)
class IndexRow:
    """One thing that can be found in an index.

    Attributes:
        kind: What it is.
        text: The prompt, the image's path, the embedding's name or the token.
        source: Where it stands: `file:line`, a path, or nothing for tokens.
        identity: What makes it the same thing again: the text itself, or the SHA-256 of the file.
    """

    kind: IndexRowKind
    text: str
    source: str
    identity: str


def check_source(over: str) -> str:
    """Returns a typed source such as `prompts:library.txt` as it stands, if it is one and is there; nothing is read.

    Raises:
        ValueError: an unknown type of source (with the nearest names), or a file or folder that is missing.
    """
    name, _, place = over.partition(":")
    if name not in SOURCES:
        known = [f"{one}:" for one in SOURCES if one != "vocabulary"] + ["vocabulary"]
        raise ValueError(f"what is searched begins with its type{did_you_mean(over, known)}")
    if bool(place) == (name == "vocabulary"):
        raise ValueError(f"write {'vocabulary' if name == 'vocabulary' else f'{name}:PATH'}")
    if place and not is_there(at_home(Path(place))):
        raise ValueError(f"{place}: no such {'file' if name == 'prompts' else 'folder'}")
    return over


def read_source(over: str, bundle: "Bundle", listener: Listener = Listener()) -> list[IndexRow]:
    """The rows of a typed source such as `prompts:library.txt` that `check_source` lets pass.

    Args:
        listener: Hears what of the source is left out, and why.

    Raises:
        InputError: one that cannot be read or is empty.
    """
    name, _, place = over.partition(":")
    rows = SOURCES[name](at_home(Path(place)), bundle, listener)
    if not rows:
        raise InputError(f"--over {over}: there is nothing in it")
    return rows


def holds(over: str, row: IndexRow) -> bool:
    """Whether a row of an index came from a typed source such as `prompts:library.txt`."""
    name, _, place = over.partition(":")
    path = str(at_home(Path(place)))
    if row.kind != KINDS[name]:
        return False
    if name == "prompts":
        return row.source.rpartition(":")[0] == path
    return name == "vocabulary" or row.source == path or Path(path) in Path(row.source).parents


def _prompts(path: Path, bundle: "Bundle", listener: Listener) -> list[IndexRow]:
    from lab.text import read_numbered_lines

    return [IndexRow("prompt", line, f"{path}:{number}", line) for number, line in read_numbered_lines(path)]


def _images(path: Path, bundle: "Bundle", listener: Listener) -> list[IndexRow]:
    from lab.images import images_in, load_image
    from lab.runs.run import file_digest

    def row(file: Path) -> IndexRow:
        load_image(file)
        return IndexRow("image", str(file), str(file), file_digest(file))

    rows, broken = keep_readable(row, images_in(path, listener))
    for reason in broken:
        listener.note(f"skipped: {reason}")
    return rows


def _embeddings(path: Path, bundle: "Bundle", listener: Listener) -> list[IndexRow]:
    from lab.condition.towers import vectors_for
    from lab.embeddings.library import collect

    rows, reason, left_out = [], "", []
    library = collect([path])
    for name in sorted(library):
        try:
            vectors_for(bundle, library[name])
        except InputError as error:
            left_out.append(name)
            reason = reason or str(error)
            continue
        rows.append(IndexRow("embedding", name, str(path), library[name].provenance.sha256))
    if left_out and not rows:
        raise InputError(f"{path}: none of its embeddings fits the model: {reason}")
    if left_out:
        listener.note(f"{path}: left out {', '.join(left_out)}: made for text encoders of other widths")
    return rows


def _vocabulary(path: Path, bundle: "Bundle", listener: Listener) -> list[IndexRow]:
    tokenizer = bundle.towers[0].tokenizer
    special = set(tokenizer.all_special_tokens)
    tokens = [token for token in tokenizer.get_vocab() if token not in special]
    return [IndexRow("token", token, "", token) for token in sorted(tokens)]


KINDS: dict[str, IndexRowKind] = {
    "prompts": "prompt",
    "images": "image",
    "embeddings": "embedding",
    "vocabulary": "token",
}
"""What the rows of each source are."""

SOURCES: dict[str, Callable[[Path, "Bundle", Listener], list[IndexRow]]] = {
    "prompts": _prompts,
    "images": _images,
    "embeddings": _embeddings,
    "vocabulary": _vocabulary,
}

"""What can be searched: one reader for each kind of source, one table."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lab.condition.vectors import vectors_for
from lab.embeddings.library import collect
from lab.errors import InputError, did_you_mean
from lab.images import images_in
from lab.models.bundle import Bundle
from lab.models.weights import sha256

Note = Callable[[str], None]

RowKind = Literal["prompt", "image", "embedding", "token"]


@dataclass(frozen=True)
class Row:
    """One thing that can be found.

    Attributes:
        text: The prompt, the image's path, the embedding's name or the token.
        source: Where it stands: `file:line`, a path, or nothing for tokens.
        identity: What makes it the same thing again: the text itself, or the SHA-256 of the file.
    """

    kind: RowKind
    text: str
    source: str
    identity: str


def read_source(over: str, bundle: Bundle, on_note: Note | None = None) -> list[Row]:
    """The rows of a typed source such as `prompts:library.txt`.

    Args:
        on_note: Hears what of the source is left out, and why.

    Raises:
        InputError: an unknown type of source (with the nearest names), or one that is missing or empty.
    """
    name, _, place = over.partition(":")
    if name not in SOURCES:
        known = [f"{each}:" for each in SOURCES if each != "vocabulary"] + ["vocabulary"]
        raise InputError(f"--over {over}: what is searched begins with its type{did_you_mean(over, known)}")
    if bool(place) == (name == "vocabulary"):
        form = "vocabulary" if name == "vocabulary" else f"{name}:PATH"
        raise InputError(f"--over {over}: write {form}")
    rows = SOURCES[name](Path(place), bundle, on_note or (lambda line: None))
    if not rows:
        raise InputError(f"--over {over}: there is nothing in it")
    return rows


def _prompts(path: Path, bundle: Bundle, note: Note) -> list[Row]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot read prompts: {getattr(error, 'strerror', None) or 'not UTF-8 text'}"
        ) from None
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    return [
        Row("prompt", line, f"{path}:{number}", line)
        for number, line in numbered
        if line and not line.startswith("#")
    ]


def _images(path: Path, bundle: Bundle, note: Note) -> list[Row]:
    return [Row("image", str(file), str(file), sha256([file])) for file in images_in(path)]


def _embeddings(path: Path, bundle: Bundle, note: Note) -> list[Row]:
    rows, reason, left_out = [], "", []
    library = collect([path])
    for name in sorted(library):
        try:
            vectors_for(bundle, library[name])
        except InputError as error:
            left_out.append(name)
            reason = reason or str(error)
            continue
        rows.append(Row("embedding", name, str(path), library[name].provenance.sha256))
    if left_out and not rows:
        raise InputError(f"{path}: none of its embeddings fits the model: {reason}")
    if left_out:
        note(f"{path}: left out {', '.join(left_out)}: made for text encoders of other widths")
    return rows


def _vocabulary(path: Path, bundle: Bundle, note: Note) -> list[Row]:
    tokenizer = bundle.towers[0].tokenizer
    special = set(tokenizer.all_special_tokens)
    tokens = [token for token in tokenizer.get_vocab() if token not in special]
    return [Row("token", token, "", token) for token in sorted(tokens)]


SOURCES: dict[str, Callable[[Path, Bundle, Note], list[Row]]] = {
    "prompts": _prompts,
    "images": _images,
    "embeddings": _embeddings,
    "vocabulary": _vocabulary,
}

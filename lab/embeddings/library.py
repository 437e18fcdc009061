"""From names to embeddings: what `embeddings=` and the flags of the command line offer to prompts."""

import os
import unicodedata
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path

from lab.config import at_home
from lab.embeddings.embedding import Embedding, vectors_sha256
from lab.embeddings.read import (
    HUB,
    check_half,
    embedding_files,
    is_image,
    read_all,
    read_file,
    safest_learned_embeds,
)
from lab.errors import InputError, keep_readable
from lab.files import is_folder, is_there

Source = Embedding | str | PathLike[str]
"""An embedding, a file (`FILE` or `FILE=name`), a folder, or `hub:org/name`."""

Sources = Source | Iterable[Source] | Mapping[str, Embedding]
"""What `embeddings=` takes everywhere: one source, several, or embeddings by name."""


MOST_FOLDERS = 10_000
"""In a folder of embeddings: of more, another folder is meant."""


def collect(*groups: Sources) -> Mapping[str, Embedding]:
    """Gathers the embeddings that prompts may name.

    Files are read at once, since a file may hold a pair and so answer to two names. Folders are searched with their
    subfolders, and what is in them is read when its name is first asked for. A file in a folder answers to its stem,
    diffusers' `learned_embeds` to the name of its folder.

    Args:
        groups: Each one or several of: an `Embedding`; whatever `read_embedding` takes, with `=name` behind it if
            prompts shall use another name; or a mapping from names, which is left as it is.

    Returns:
        Embeddings by name. Asking for a name to which two files answer is an `InputError` that names both.

    Raises:
        InputError: a file that is not an embedding, a file or folder that does not exist, something else than a
            source, or two embeddings or single files that answer to one name.
    """
    mappings = [group for group in groups if isinstance(group, Mapping)]
    sources = [one for group in groups if not isinstance(group, Mapping) for one in _each(group)]
    if mappings and not sources:
        return mappings[0] if len(mappings) == 1 else ChainMap(*map(_mutable, mappings))
    library = Library(sources)
    return ChainMap(*map(_mutable, mappings), _mutable(library)) if mappings else library


class Library(Mapping[str, Embedding]):
    """Embeddings by name; those of folders are read when they are first asked for."""

    def __init__(self, sources: Iterable[Source]):
        """Takes sources as `collect` describes them."""
        self._sources: dict[str, list[Embedding | Path]] = {}
        folders: list[Path] = []
        values: list[Embedding] = []
        files: list[Embedding] = []
        for source in sources:
            if isinstance(source, Embedding):
                values.append(source)
                continue
            place, name = _split_name(str(source))
            if name is None and is_folder(place):
                folders.append(Path(place))
            else:
                check_embedding_source(str(source))
                files += read_all(place, name)
        for embedding in (*values, *files):
            self._add(embedding)
        for folder in folders:
            self._add_folder(folder)

    def __getitem__(self, name: str) -> Embedding:
        name = _composed(name)
        sources = self._sources[name]
        if len(sources) == 1 and isinstance(sources[0], Embedding):
            return sources[0]
        read, _ = keep_readable(lambda source: _read(source, name), sources)  # a LoRA may lie beside one
        for other in read[1:]:
            if not _alike(read[0], other):
                raise _clash(name, read[0], other)
        self._sources[name] = [read[0]]
        return read[0]

    def named_inside(self, written: str) -> str | None:
        """The name of the embedding whose file calls it `<written>`, or None; files not yet read are read for it."""
        for name in self._sources:
            try:
                inside = self[name].provenance.internal_name
            except InputError:
                continue
            if inside and _composed(inside).removeprefix("<").removesuffix(">") == _composed(written):
                return name
        return None

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _composed(name) in self._sources

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def _add(self, embedding: Embedding) -> None:
        known = self._sources.setdefault(_composed(embedding.name), [embedding])
        if not _same(known[0], embedding) and not _alike(known[0], embedding):
            raise _clash(embedding.name, known[0], embedding)

    def _add_folder(self, folder: Path) -> None:
        for name, path in _search(folder):
            known = self._sources.setdefault(_composed(name), [])
            if not any(_same(one, path) for one in known):
                known.append(path)


def _each(group: Source | Iterable[Source]) -> Iterator[Source]:
    """The sources of a group; what `read_embedding` returned for a pair, a list, may be among them."""
    if isinstance(group, (Embedding, str, PathLike)):
        yield group
    elif isinstance(group, Iterable) and not hasattr(group, "dtype"):  # no array or tensor
        for one in group:
            yield from _each(one)
    else:
        raise InputError(f"embeddings: expected an Embedding, a file or a folder, not {type(group).__name__}")


def _mutable(mapping: Mapping[str, Embedding]) -> "dict[str, Embedding]":
    return mapping  # type: ignore[return-value]  # a ChainMap that is only read takes any mapping


def _split_name(text: str) -> tuple[str, str | None]:
    """Parts FILE=name, `~` being the home folder; an existing file may have an equals sign in its own name."""
    text = str(at_home(Path(text))) if text.startswith("~") else text
    source, equals, name = text.rpartition("=")
    if not equals or is_there(text):
        return text, None
    if not source or not name:
        raise InputError(f"--embedding {text}: expected FILE or FILE=name")
    return source, name


def is_source(text: str) -> bool:
    """Whether `FILE`, `FILE=name` or a folder is there; of `hub:org/name` that is not asked."""
    try:
        place, _ = _split_name(text)
    except InputError:
        return False
    return place.startswith(HUB) or is_there(place)


def check_embedding_source(text: str) -> str:
    """Returns `FILE`, `FILE=name`, a folder or `hub:org/name` as it is; no file is opened.

    Raises:
        InputError: a file or folder that is not there, or half of `FILE=name`.
    """
    place, _ = _split_name(text)
    if not place.startswith(HUB) and not is_there(place):
        raise InputError(f"{place}: no such file, and no such folder of embeddings")
    return text


def _search(folder: Path) -> Iterator[tuple[str, Path]]:
    """The files in a folder and its subfolders, by the names they answer to."""
    for directory in _folders(folder):
        files = embedding_files(directory)
        learned = safest_learned_embeds(files)
        if learned is not None:
            yield directory.resolve().name, learned
            files = [
                path for path in files if not path.stem.startswith("learned_embeds")
            ]  # its earlier steps
        for path in files:
            if not is_image(path) or _holds_embedding(path):
                yield path.stem, path


def _folders(folder: Path) -> list[Path]:
    """A folder and those in it, without what may not be looked into; links are not followed further."""
    found = [folder]
    for parent, inside, _ in os.walk(folder):
        found += (Path(parent, name) for name in inside if os.access(Path(parent, name), os.R_OK | os.X_OK))
        if len(found) > MOST_FOLDERS:
            raise InputError(
                f"{folder}: over {MOST_FOLDERS:,} folders in it; give the one with the embeddings"
            )
    return [folder, *sorted(found[1:])]


def _holds_embedding(image: Path) -> bool:
    try:
        read_file(image)
    except InputError:
        return False
    return True


def _composed(name: str) -> str:
    """A name in Unicode's composed form (NFC); macOS writes the names of files decomposed."""
    return unicodedata.normalize("NFC", name)


def _read(source: Embedding | Path, name: str) -> Embedding:
    if isinstance(source, Embedding):
        return source
    embedding = read_file(source, name)
    check_half(embedding)
    return embedding


def _alike(one: Embedding | Path, other: Embedding | Path) -> bool:
    """Whether two have the same vectors, as a file and its converted copy do; in memory they are told apart."""
    if isinstance(one, Path) or isinstance(other, Path) or None in (_path(one), _path(other)):
        return False
    return vectors_sha256(one.tensors) == vectors_sha256(other.tensors) and one.widths == other.widths


def _path(source: Embedding | Path) -> Path | None:
    return source if isinstance(source, Path) else source.provenance.path


def _same(one: Embedding | Path, other: Embedding | Path) -> bool:
    first, second = _path(one), _path(other)
    return one is other or (first is not None and second is not None and first.resolve() == second.resolve())


def _clash(name: str, *sources: Embedding | Path) -> InputError:
    paths = sorted(map(_path, sources), key=lambda path: path is not None)
    shown = " and ".join(str(path or "(in memory)") for path in paths)
    if None in paths:
        return InputError(f"two embeddings are called '{name}': {shown}; give one another name, as FILE=name")
    return InputError(f"two files answer to '{name}': {shown}; give one as FILE=another-name")

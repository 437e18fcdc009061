"""From names to embedding files: which embeddings prompts may name."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lab.embeddings.embedding import Embedding
from lab.embeddings.read import check_half, embedding_files, is_image, read_all, read_file
from lab.errors import InputError


class Library(Mapping[str, Embedding]):
    """Embeddings by name. Those from folders are read when they are first asked for.

    Asking for a name to which two files answer is an `InputError` that names both.
    """

    def __init__(self, given: dict[str, Embedding], files: dict[str, list[Path]]):
        """Takes embeddings that are read already, and files of folders, both by name."""
        self._given = given
        self._files = files
        self._names = dict.fromkeys([*given, *files])
        self._read: dict[str, Embedding] = {}

    def __getitem__(self, name: str) -> Embedding:
        if name not in self._read:
            self._read[name] = self._find(name)
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _find(self, name: str) -> Embedding:
        given = self._given.get(name)
        paths = [_path(given)] if given is not None else []
        for path in self._files.get(name, ()):
            if not any(_same_file(path, known) for known in paths):
                paths.append(path)
        if not paths:
            raise KeyError(name)
        if len(paths) > 1:
            raise _two_files(name, *paths[:2])
        if given is None:
            given = read_file(paths[0], name)
            check_half(given)
        return given


def collect(
    embedding: Sequence[str] = (), embeddings: Sequence[Path] = (), loaded: Sequence[Embedding] = ()
) -> Library:
    """Gathers what `--embedding FILE[=name]` and `--embeddings DIR` offer, both repeatable.

    Single files are read at once. Folders are searched with their subfolders, and their files answer to their
    stems; diffusers' `learned_embeds` answers to the name of its folder.

    Args:
        embedding: Whatever `read_embedding` takes, with `=name` behind it if prompts shall use another name.
        embeddings: Folders.
        loaded: Embeddings that are read already.

    Raises:
        InputError: a file that is not an embedding, a folder that does not exist, or two of `embedding` and
            `loaded` that answer to the same name.
    """
    given: dict[str, Embedding] = {}
    for one in loaded:
        if given.setdefault(one.name, one) is not one:
            raise InputError(f"two embeddings are called '{one.name}'; read one by another name")
    for text in embedding:
        source, name = _split_name(text)
        for one in read_all(source, name):
            known = given.setdefault(one.name, one)
            if not _same_file(_path(known), _path(one)):
                raise _two_files(one.name, _path(known), _path(one))
    files: dict[str, list[Path]] = {}
    for folder in embeddings:
        for name, path in _search(Path(folder)):
            files.setdefault(name, []).append(path)
    return Library(given, files)


def _split_name(text: str) -> tuple[str, str | None]:
    """Parts FILE=name; an existing file may have an equals sign in its own name."""
    source, equals, name = text.rpartition("=")
    if not equals or Path(text).exists():
        return text, None
    if not source or not name:
        raise InputError(f"--embedding {text}: expected FILE or FILE=name")
    return source, name


def _search(folder: Path) -> Iterator[tuple[str, Path]]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of embeddings")
    for place in [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())]:
        for path in embedding_files(place):
            if is_image(path) and not _holds_embedding(path):
                continue
            name = place.resolve().name if path.stem == "learned_embeds" else path.stem
            yield name, path


def _holds_embedding(image: Path) -> bool:
    try:
        read_file(image)
    except InputError:
        return False
    return True


def _path(embedding: Embedding) -> Path:
    return embedding.provenance.path or Path("(in memory)")


def _same_file(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _two_files(name: str, first: Path, second: Path) -> InputError:
    return InputError(f"two files answer to '{name}': {first} and {second}; give one as FILE=another-name")

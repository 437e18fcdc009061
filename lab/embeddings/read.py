"""Reading embeddings: from a file of any layout, a folder, or the Hugging Face hub."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import get_args

from lab.embeddings.containers import MAX_FILE_BYTES, FileContents, decode, read_bytes
from lab.embeddings.embedding import (
    NEGATIVE_SUFFIX,
    PARTNER,
    Embedding,
    ForeignEmbeddingError,
    Kind,
    Provenance,
    check_outputs,
    check_vectors,
)
from lab.embeddings.layouts import READ, recognise
from lab.embeddings.parts import Draft
from lab.errors import InputError, keep_readable
from lab.files import is_file, is_folder
from lab.hub.repository import HUB, Repository, open_repository, split_source
from lab.listening import Listener

SUFFIXES = (*READ, ".png", ".webp")
"""Files that are looked at in a folder. A single file may have any name."""

LEARNED = "learned_embeds"
"""The stem of diffusers' files; of SDXL's second encoder it is followed by `_2`."""


def read_embedding(path: str | Path, name: str | None = None) -> Embedding | list[Embedding]:
    """Reads learned embeddings in any layout of the table in `layouts.py`, recognised by content.

    Args:
        path: One of
            - a file. `learned_embeds.safetensors` with `learned_embeds_2.safetensors` beside it is one
              embedding for SDXL. `NAME.pt` with `NAME-neg.pt` beside it, both in A1111's layout, is a
              DreamArtist pair: a list of two; so is a file that says of itself that it is the first half of one.
            - a folder: all embeddings in it, by name: a list, unless there is only one. A `learned_embeds` file
              in it is called by the folder's name, and those at earlier steps beside it are left out. So is
              what is no embedding, if there is one at least.
            - `hub:org/name` or `hub:org/name/file`, on the Hugging Face hub.
        name: What prompts call it; by default the file's stem. A pair's second half gets `-neg` behind it.

    Raises:
        InputError: nothing there, not an embedding, damaged, unusable vectors, half of a pair without the other, or a
            file that would run code.
    """
    embeddings = read_all(path, name)
    return embeddings[0] if len(embeddings) == 1 else embeddings


def read_all(path: str | Path, name: str | None = None, listener: Listener = Listener()) -> list[Embedding]:
    """`read_embedding`, always as a list.

    Args:
        listener: Hears what is left out of a folder, and why.

    Raises:
        InputError: as `read_embedding`.
    """
    if not isinstance(path, (str, PathLike)):
        raise InputError(f"expected the path of an embedding, not {type(path).__name__}")
    if str(path).startswith(HUB):
        return read_all(*_download(str(path), name))
    path = Path(path)
    if is_folder(path):
        return _read_folder(path, name, listener)
    embedding = read_file(path, name)
    negative = path.with_name(f"{path.stem}{NEGATIVE_SUFFIX}{path.suffix}")
    paired = check_half(embedding)
    if paired and embedding.kind != "negative":
        return [embedding, read_file(negative, f"{embedding.name}{NEGATIVE_SUFFIX}")]
    if embedding.provenance.layout == "a1111" and is_file(negative):
        other = read_file(negative, f"{embedding.name}{NEGATIVE_SUFFIX}")
        if other.provenance.layout == "a1111":
            return [embedding, other]
    return [embedding]


def _download(source: str, called: str | None) -> tuple[Path, str | None]:
    """Fetches `hub:org/name/file`, or of `hub:org/name` its embedding, with the files that belong to it.

    Safetensors are preferred to pickles, and diffusers' names to others.

    Args:
        called: What prompts are to call it, if that was said.

    Returns:
        The file, and what prompts call it: of diffusers' files the repository's name.

    Raises:
        InputError: no such repository or file, no embedding or several, a model, or a hub out of reach.
    """
    name, file = split_source(source)
    repository = open_repository(name)
    file = file or _embedding_in(repository)
    if file in repository.files and (size := repository.files[file].size) > MAX_FILE_BYTES:
        raise InputError(f"{source}: {size / 1e6:.0f} MB, too large for an embedding; is it a model?")
    path = PurePosixPath(file)
    stems = (f"{path.stem}{NEGATIVE_SUFFIX}", path.stem.removesuffix(NEGATIVE_SUFFIX), f"{path.stem}_2")
    others = {str(path.with_stem(stem)) for stem in stems} & repository.files.keys() - {file}
    if called is None and path.stem == LEARNED:
        called = name.partition("/")[2]
    return repository.fetch([file, *sorted(others)]) / file, called


def _embedding_in(repository: Repository) -> str:
    if repository.is_model:
        raise InputError(f"{repository}: this is a model, not an embedding; give it by --model")
    names = sorted(
        (name for name, file in repository.files.items() if "/" not in name and file.size <= MAX_FILE_BYTES),
        key=lambda name: PurePosixPath(name).suffix != SUFFIXES[0],
    )
    stems: dict[str, str] = {}
    for name in names:
        if PurePosixPath(name).suffix in READ:
            stems.setdefault(PurePosixPath(name).stem, name)
    if LEARNED in stems:
        return stems[LEARNED]
    if not stems:
        raise InputError(f"{repository}: no embedding there; expected a file of {', '.join(READ)}")
    if len(stems) > 1:
        files = [f"{HUB}{repository.name}/{name}" for name in stems.values()]
        more = f" or another of {len(files)}" if len(files) > 3 else ""
        raise InputError(f"{repository}: several embeddings there; write {' or '.join(files[:3])}{more}")
    return next(iter(stems.values()))


def check_half(embedding: Embedding) -> bool:
    """Whether an embedding's file says that it is half of a pair.

    Raises:
        InputError: it does, and the other half is not beside it.
    """
    path = embedding.provenance.path
    if path is None or PARTNER not in embedding.provenance.metadata:
        return False
    negative = embedding.kind == "negative"
    stem = path.stem.removesuffix(NEGATIVE_SUFFIX) if negative else path.stem + NEGATIVE_SUFFIX
    other = path.with_name(f"{stem}{path.suffix}")
    if other == path or not is_file(other):
        raise InputError(
            f"{path}: half of a pair, and the other half is missing: {other.name}; put it beside it"
        )
    return True


def read_one(source: str | Path, name: str | None = None) -> Embedding:
    """Reads what has to be a single embedding: of a DreamArtist pair the file that is named, alone.

    Raises:
        InputError: as `read_embedding`; a folder of several.
    """
    if str(source).startswith(HUB):
        return read_file(*_download(str(source), name))
    if not is_folder(source):
        return read_file(source, name)
    embeddings = read_all(source, name)
    if len(embeddings) > 1:
        raise InputError(f"{source}: {len(embeddings)} embeddings in this folder; name one of its files")
    return embeddings[0]


def read_file(path: str | Path, name: str | None = None) -> Embedding:
    """Reads one file (and SDXL's second, if there is one) as one embedding.

    Raises:
        InputError: as `read_embedding`, with the path in front.
    """
    path = Path(path)
    data = read_bytes(path)
    second = sdxl_partner(path)
    try:
        contents = replace(decode(data), wanted=name)
        layout, draft = recognise(contents)
        if second is not None and layout == "diffusers":
            data += (more := read_bytes(second))
            draft = _paired(draft, recognise(decode(more))[1], second)
        vectors = check_vectors(draft.vectors, zeros=bool(draft.outputs))
        outputs = check_outputs(draft.outputs, vectors)
    except ForeignEmbeddingError as error:
        raise ForeignEmbeddingError(f"{path}: {error}", error.vectors) from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return Embedding(
        name=name or path.stem,
        vectors=vectors,
        kind=_kind(contents, path, layout),
        provenance=_provenance(path, layout, draft, contents, hashlib.sha256(data).hexdigest()),
        outputs=outputs,
        layers=check_vectors(draft.layers),
        foreign={key: rows.detach().float().cpu() for key, rows in draft.foreign.items()},
    )


def sdxl_partner(path: Path) -> Path | None:
    """The file with the second encoder's vectors that diffusers' SDXL script wrote beside `path`, if any."""
    if not re.fullmatch(r"learned_embeds(?!_2)(-.*)?", path.stem):
        return None
    partner = path.with_name(path.name.replace("learned_embeds", "learned_embeds_2", 1))
    return partner if is_file(partner) else None


def embedding_files(folder: Path) -> list[Path]:
    """The files directly in a folder that may hold embeddings, by name, without hidden ones and SDXL's second halves.

    An image beside a file of the same stem, or called `NAME.preview.png`, is a picture of it, as in A1111.

    Raises:
        InputError: the folder cannot be read.
    """
    try:
        files = sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
        )
    except OSError as error:
        raise InputError(f"{folder}: cannot read the folder: {error.strerror}") from None
    seconds = {sdxl_partner(path) for path in files}
    stems = {path.stem for path in files if not is_image(path)}
    return [path for path in files if path not in seconds and not _is_preview(path, stems)]


def is_image(path: Path) -> bool:
    """Whether its suffix is that of an image in which A1111 may have hidden an embedding."""
    return path.suffix.lower() in (".png", ".webp")


def safest_learned_embeds(files: Sequence[Path]) -> Path | None:
    """diffusers' `learned_embeds` among the files of a folder, rather safetensors than a pickle, or None."""
    learned = [path for path in files if path.stem == LEARNED]
    return min(learned, key=lambda path: SUFFIXES.index(path.suffix.lower()), default=None)


def _is_preview(path: Path, stems: set[str]) -> bool:
    return is_image(path) and (path.stem in stems or path.stem.endswith(".preview"))


def _read_folder(folder: Path, name: str | None, listener: Listener) -> list[Embedding]:
    files = embedding_files(folder)
    if not files:
        raise InputError(f"{folder}: no embedding in this folder; expected a file of {', '.join(SUFFIXES)}")
    names: dict[Path, str | None] = dict.fromkeys(files, name)
    learned = safest_learned_embeds(files)
    if learned is not None:
        steps = [path for path in files if path.stem.startswith(LEARNED)]
        others = [] if name else [path for path in files if path not in steps]
        names = {learned: name or folder.resolve().name, **dict.fromkeys(others)}
    if name is not None and len(names) > 1:
        raise InputError(f"{folder}: cannot call {len(names)} embeddings '{name}'; name one of its files")
    embeddings, strays = keep_readable(lambda path: read_file(path, names[path]), names)
    for stray in strays:
        listener.note(f"left out: {stray}")
    for embedding in embeddings:
        check_half(embedding)
    return embeddings


def _paired(first: Draft, second: Draft, path: Path) -> Draft:
    """SDXL: the first file has CLIP-L's vectors, the second OpenCLIP's."""
    if len(first.vectors) != 1 or len(second.vectors) != 1:
        raise InputError(f"{path.name} beside it does not hold the vectors of one encoder")
    (clip_l,), (clip_g,) = first.vectors.values(), second.vectors.values()
    return Draft({"clip_l": clip_l, "clip_g": clip_g}, internal_name=first.internal_name)


def _kind(contents: FileContents, path: Path, layout: str) -> Kind:
    said = contents.metadata.get("lab.kind")
    if said in get_args(Kind):
        return said  # type: ignore[return-value]  # mypy does not narrow by get_args
    negative = contents.metadata.get("modelspec.is_negative_embedding", "").lower() in ("true", "1", "yes")
    if negative or (layout == "a1111" and path.stem.endswith(NEGATIVE_SUFFIX)):
        return "negative"
    return "unknown"


def _provenance(path: Path, layout: str, draft: Draft, contents: FileContents, sha256: str) -> Provenance:
    """Fills what the layout has no place for from safetensors metadata: ModelSpec's and kohya's keys."""
    metadata = contents.metadata
    step = metadata.get("ss_steps", "")
    return Provenance(
        layout=layout,
        internal_name=draft.internal_name
        or metadata.get("modelspec.trigger_phrase")
        or metadata.get("modelspec.title"),
        step=int(step) if draft.step is None and re.fullmatch("[0-9]{1,18}", step) else draft.step,
        base_model=draft.base_model or metadata.get("ss_sd_model_name"),
        path=path,
        sha256=sha256,
        metadata={**metadata, **draft.metadata},
        notes=draft.notes,
    )

"""Repositories on the Hugging Face hub: what they hold, and how their files come into the local cache."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from lab.errors import InputError, did_you_mean
from lab.hub.cache import COMMIT, File, RepositoryCache, stays_inside, writing_cache
from lab.hub.transfer import answer, download, explain, quiet_hub
from lab.listening import Listener

HUB = "hub:"
"""What stands before a repository's name, wherever the lab takes one."""

DEFAULT_REVISION = "main"

EMBEDDING_BYTES = 1_500_000
"""No embedding is larger (75 vectors for SDXL take 0.6 MB), and hardly a LoRA is smaller."""

_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def split_source(source: str) -> tuple[str, str]:
    """Splits `hub:org/name/folder/file` into the repository `org/name` and the file, which may be empty.

    Raises:
        InputError: not a repository's name.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    organisation, _, rest = source.removeprefix(HUB).partition("/")
    name, _, file = rest.partition("/")
    repository = f"{organisation}/{name}"
    try:
        validate_repo_id(repository)
    except HFValidationError:
        said = f"{source}: '{repository}' is not the name of a repository"
        raise InputError(f"{said}; write {HUB}org/name or {HUB}org/name/file") from None
    return repository, file


@dataclass(frozen=True)
class Repository:
    """A repository at one revision, as the hub knows it or, where the hub cannot be asked, the local cache.

    Attributes:
        name: `org/name`.
        revision: A branch, a tag or a commit.
        commit: What the revision stands for: 40 hexadecimal digits.
        files: Every file by its name, such as `unet/config.json`.
        trouble: Why the hub could not be asked, or empty. Then only what the cache holds can be had.
    """

    name: str
    revision: str
    commit: str
    files: Mapping[str, File]
    trouble: str = ""

    def __str__(self) -> str:
        return _called(self.name, self.revision)

    @property
    def folder(self) -> Path:
        """Where fetched files lie, under their names."""
        return RepositoryCache(self.name).snapshot(self.commit)

    @property
    def is_model(self) -> bool:
        """Whether it holds a model as a diffusers folder."""
        return not {"model_index.json", "unet/config.json"}.isdisjoint(self.files)

    @property
    def is_embedding(self) -> bool:
        """Whether its weights are so few that they must be embeddings."""
        kinds = (".safetensors", ".bin", ".pt")
        sizes = [file.size for name, file in self.files.items() if name.endswith(kinds)]
        return bool(sizes) and max(sizes) <= EMBEDDING_BYTES and not self.is_model

    @property
    def _is_listed(self) -> bool:
        """Whether these are all files: of what other programs have fetched the cache may know no list."""
        return all(file.blob for file in self.files.values())

    def fetch(
        self, names: Sequence[str], listener: Listener = Listener(), *, preliminary: bool = False
    ) -> Path:
        """Brings files into the cache, each from where an earlier try broke off, and returns the folder with them.

        Args:
            listener: Is told the megabytes.
            preliminary: Whether these only tell which others are wanted. Then the commit that the cache has for
                the revision stays the one that is used while the hub is out of reach.

        Raises:
            InputError: no such file (with the nearest names), no answer, a refusal, or no room on the disk.
        """
        missing = [name for name in names if not (self.folder / name).is_file()]
        for name in missing:
            if name not in self.files and (self._is_listed or not self.trouble):
                raise InputError(f"{self}: no file {name} there{did_you_mean(name, self.files)}")
        if self.trouble and missing:
            lacks = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
            raise InputError(
                f"{self}: {self.trouble}, and the local cache lacks {lacks}; fetch it while online"
            )
        cache = RepositoryCache(self.name)
        if missing:
            with writing_cache(), quiet_hub():
                cache.keep_files(self.commit, self.files)
                if cache.commit(self.revision) is None:
                    cache.keep_commit(self.revision, self.commit)
                self._download(missing, sum(self.files[name].size for name in names), listener)
        if not self.trouble and not preliminary:
            with suppress(OSError):  # a cache that cannot be written can be read all the same
                cache.keep_commit(self.revision, self.commit)
        return self.folder

    def _download(self, missing: Sequence[str], total: int, listener: Listener) -> None:
        from huggingface_hub.utils import WeakFileLock

        cache = RepositoryCache(self.name)
        here = total - sum(self.files[name].size for name in missing)
        cache.check_space(total - here)
        megabytes = math.ceil(total / 1e6)
        for name in missing:
            file = self.files[name]

            def heard(size: int, before: int = here) -> None:
                done = (
                    megabytes * (before + size) / max(total, 1)
                )  # ends at the whole number, as a bar has to
                listener.progress(done, megabytes, f"MB of {self.name}")

            for path in (cache.blob(file), cache.lock(file)):
                path.parent.mkdir(parents=True, exist_ok=True)
            with WeakFileLock(cache.lock(file)):  # the one that other programs take
                if not cache.blob(file).is_file():
                    self._download_one(name, cache.blob(file), heard)
                cache.link(file, self.commit, name)
            here += file.size
            heard(0, here)

    def _download_one(self, name: str, into: Path, heard: Callable[[int], None]) -> None:
        from huggingface_hub.constants import ENDPOINT
        from huggingface_hub.errors import HTTPError

        try:
            url = f"{ENDPOINT}/{self.name}/resolve/{self.commit}/{quote(name)}"
            download(url, self.files[name].size, into, heard)
        except Exception as error:
            if isinstance(error, OSError) and not isinstance(error, HTTPError):
                raise  # the disk's, not the line's
            trouble = explain(error, self.name)
            again = "" if trouble.refused else "; the same command goes on where it was"
            raise InputError(f"{self}: {name}: {trouble.what}; {trouble.advice}{again}") from None


def open_repository(name: str, revision: str | None = None, listener: Listener = Listener()) -> Repository:
    """Asks the hub what a repository holds, and the cache where the hub does not answer or refuses.

    A commit whose files the cache has listed is not asked for: it never changes.

    Args:
        name: `org/name`.
        revision: A branch, tag or commit; by default `main`.
        listener: Is told when the cache has to do.

    Raises:
        InputError: the hub does not answer or refuses, and the cache does not have it.
    """
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import RevisionNotFoundError

    revision = revision or DEFAULT_REVISION
    where = _called(name, revision)
    if not stays_inside(revision):
        raise InputError(f"{where}: not the name of a revision")
    cached = _cached(name, revision)
    if cached is not None and cached.commit == revision and cached._is_listed:
        return cached
    try:
        return _ask(name, revision)
    except Exception as error:
        trouble = explain(error, name)
        if isinstance(error, RevisionNotFoundError) and cached is None:
            raise InputError(f"{where}: {trouble.what}{did_you_mean(revision, _revisions(name))}") from None
    if cached is not None:
        if not HF_HUB_OFFLINE:
            listener.note(f"{where}: {trouble.what}; taken from the local cache")
        return replace(cached, trouble=trouble.what)
    if trouble.refused:
        raise InputError(f"{where}: {trouble.what}; {trouble.advice}")
    lacks = f"{where}: {trouble.what}, and the local cache does not have it"
    raise InputError(f"{lacks}; {trouble.advice}, or give a folder or a file")


def _ask(name: str, revision: str) -> Repository:
    from huggingface_hub import HfApi

    info = answer(
        lambda seconds: HfApi().model_info(name, revision=revision, timeout=seconds, files_metadata=True)
    )
    files = {
        each.rfilename: File(each.size or 0, each.blob_id or "", each.lfs.sha256 if each.lfs else "")
        for each in info.siblings or ()
        if stays_inside(each.rfilename)
    }
    commit = info.sha or ""
    if not COMMIT.fullmatch(commit) or not all(_BLOB.fullmatch(file.blob) for file in files.values()):
        raise ValueError("it lists files without their hashes")
    return Repository(name, revision, commit, files)


def _revisions(name: str) -> list[str]:
    """The branches and tags of a repository; none where the hub does not say."""
    from huggingface_hub import HfApi

    with suppress(Exception):
        references = answer(lambda _: HfApi().list_repo_refs(name))
        return [reference.name for reference in (*references.branches, *references.tags)]
    return []


def _cached(name: str, revision: str) -> Repository | None:
    cache = RepositoryCache(name)
    commit = cache.commit(revision)
    files = cache.files(commit) if commit is not None else None
    return Repository(name, revision, commit, files) if commit is not None and files else None


def _called(name: str, revision: str) -> str:
    return f"{HUB}{name}" + ("" if revision == DEFAULT_REVISION else f" at {revision}")

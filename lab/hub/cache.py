"""The local cache of the Hugging Face hub: where the files of a repository lie.

It is the one that every program on top of `huggingface_hub` shares (`HF_HOME`), in its published layout: in a folder
for each repository contents under `blobs/`, called by their hash; names under `snapshots/COMMIT/`, which link to
them; commits of branches and tags under `refs/`; lists of files under `trees/`.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from lab.errors import InputError

COMMIT = re.compile(r"[0-9a-f]{40}")
LISTING_FORMAT = 1
"""Of the lists of files, as `huggingface_hub` counts their format's versions."""


class File(NamedTuple):
    """A file in a repository: its bytes, and the hashes of its contents.

    `git` is git's own; `lfs` the sha256 of a large file, for which git has a pointer. Both are empty where only the
    cache was asked.
    """

    size: int
    git: str = ""
    lfs: str = ""

    @property
    def blob(self) -> str:
        """What the contents are called in the cache."""
        return self.lfs or self.git


@dataclass(frozen=True)
class RepositoryCache:
    """The part of the cache that holds the repository `org/name`."""

    name: str

    @property
    def root(self) -> Path:
        """The repository's folder in the cache, whether it is there or not."""
        from huggingface_hub.constants import HF_HUB_CACHE

        return Path(HF_HUB_CACHE) / f"models--{self.name.replace('/', '--')}"

    def snapshot(self, commit: str) -> Path:
        """The folder with the files that were fetched of a commit, under their names."""
        return self.root / "snapshots" / commit

    def commit(self, revision: str) -> str | None:
        """The 40 hexadecimal digits that a branch, tag or commit last stood for, or None."""
        if COMMIT.fullmatch(revision):
            return revision
        try:
            return (self.root / "refs" / revision).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None

    def files(self, commit: str) -> dict[str, File]:
        """All files of a commit; if they were never listed, those that were fetched, without hashes."""
        listed = self._listed(commit)
        if listed:
            return listed
        folder = self.snapshot(commit)
        paths = [path for path in folder.rglob("*") if path.is_file()]
        return {path.relative_to(folder).as_posix(): File(path.stat().st_size) for path in paths}

    def _listed(self, commit: str) -> dict[str, File]:
        try:
            stored = json.loads(self._listing(commit).read_text(encoding="utf-8"))
            if stored["format_version"] != LISTING_FORMAT:
                return {}
            return {
                name: File(file["size"], file["blob_id"], file.get("lfs_sha256") or "")
                for name, file in stored["files"].items()
                if stays_inside(name)
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _listing(self, commit: str) -> Path:
        return self.root / "trees" / f"{commit}.json"

    def keep_files(self, commit: str, files: Mapping[str, File]) -> None:
        """Writes down all files of a commit, so that one can tell what is missing while the hub is out of reach."""
        stored: dict[str, dict[str, Any]] = {}
        for name, file in sorted(files.items()):
            stored[name] = {"size": file.size, "blob_id": file.git}
            if file.lfs:
                stored[name] |= {"lfs_sha256": file.lfs, "lfs_size": file.size}
        if not self._listed(commit):
            text = json.dumps({"format_version": LISTING_FORMAT, "files": stored}, indent=1)
            _write(self._listing(commit), text)

    def keep_commit(self, revision: str, commit: str) -> None:
        """Writes down what a branch or tag stands for."""
        if self.commit(revision) != commit:
            _write(self.root / "refs" / revision, commit)

    def blob(self, file: File) -> Path:
        """Where a file's contents lie, whatever it is called in which commit."""
        return self.root / "blobs" / file.blob

    def lock(self, file: File) -> Path:
        """The lock that a program holds while it fetches a file's contents."""
        return self.root.parent / ".locks" / self.root.name / f"{file.blob}.lock"

    def link(self, file: File, commit: str, name: str) -> None:
        """Gives a file's contents, which lie in the cache, their name in a commit; without symbolic links (Windows)
        they move there."""
        blob, pointer = self.blob(file), self.snapshot(commit) / name
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.unlink(missing_ok=True)  # a link whose contents are gone
        try:
            pointer.symlink_to(os.path.relpath(blob, pointer.parent))
        except OSError:
            blob.replace(pointer)

    def check_space(self, wanted: int) -> None:
        """Sees whether so many bytes will fit, those included that came already of files whose download broke off.

        Raises:
            InputError: the disk has less room.
        """
        there = sum(path.stat().st_size for path in self.root.glob("blobs/*.incomplete"))
        free = shutil.disk_usage(next(path for path in self.root.parents if path.is_dir())).free
        if wanted - there > free:
            sizes = f"{wanted / 1e9:.1f} GB to fetch, and {free / 1e9:.1f} GB are free at {self.root.parent}"
            raise InputError(f"{sizes}; free some, or set HF_HOME to a folder on another disk")


@contextmanager
def writing_cache() -> Iterator[None]:
    """Turns the operating system's refusal to write the cache into one line.

    Raises:
        InputError: no permission, a full disk, a file in the way.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"{HF_HUB_CACHE}: cannot write: {reason}; set HF_HOME to another folder") from None


def stays_inside(name: str) -> bool:
    """Whether a file's name, which somebody else chose, stays in the folder that it is put into."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\\" not in name


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)

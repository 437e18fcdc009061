"""Files appear whole or not at all: written under a temporary name in the same folder, then renamed."""

import errno
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from lab.errors import InputError

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EACCES: "no permission to write there; choose another --out",
    errno.EPERM: "no permission to write there; choose another --out",
    errno.EROFS: "the file system is read-only; choose another --out",
    errno.ENOTDIR: "a part of the path is a file; choose another --out",
    errno.EEXIST: "a file of that name is in the way; choose another --out",
    errno.EISDIR: "a folder of that name is in the way; choose another --out",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}

_ASKING = Lock()
"""The process' mask can only be asked for by setting another: a thread that asked meanwhile would be told that one."""

_LONGEST_STEM = 100
"""Bytes of a file's name that its temporary one repeats: a name of any length that is allowed has room beside it."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it when the block succeeds, removes it when not.

    The temporary name keeps the suffix of `path`, from which many libraries tell the format.

    Raises:
        InputError: the disk is full, or the folder cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.is_symlink()  # a name that is too long is told before anything is written
        stem = path.stem.encode(errors="surrogateescape")[:_LONGEST_STEM].decode(errors="ignore")
        handle, name = tempfile.mkstemp(prefix=f".{stem}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o666 & ~_umask())  # mkstemp makes files that only their owner can read
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the operating system's refusals to write `path` into one line for people.

    An error that names a file elsewhere, such as one that the block reads, passes as it is. A full disk names no file:
    nothing but the writing of `path` belongs in the block.

    Raises:
        InputError: the disk is full, or the file or its folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _REASONS or not _is_about(error, path):
            raise
        raise InputError(f"{path}: cannot write: {_REASONS[error.errno]}") from None
    except Exception as error:
        code = _rust_errno(error)
        if code is None:
            raise
        raise InputError(f"{path}: cannot write: {_REASONS[code]}") from None


def _rust_errno(error: Exception) -> int | None:
    """The operating system's error in a SafetensorError, which tells it in words alone: `... (os error 28)`."""
    found = (
        re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    )
    return int(found[1]) if found and int(found[1]) in _REASONS else None


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        InputError: no such file, unreadable, or not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, and the model needs it") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def check_writable(folder: Path) -> None:
    """Refuses a folder in which nothing could be written, before any work is done; makes no folder.

    Raises:
        InputError: a file is in the way, the file system is read-only or full, or writing is not permitted.
    """
    folder = folder.expanduser()
    place = folder.absolute()
    try:
        if folder.is_file():
            raise FileExistsError(errno.EEXIST, "File exists")
        while not place.exists():
            place = place.parent
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        reason = _REASONS.get(error.errno or 0) or f"{error.strerror}; choose another --out"
        raise InputError(f"{folder}: cannot write: {reason}") from None


def _is_about(error: OSError, path: Path) -> bool:
    """Whether the error names no file, or one in the folder of `path` or above it."""
    if not isinstance(error.filename, str):
        return True
    named, folder = Path(error.filename).absolute(), path.absolute().parent
    return named.parent == folder or named in (folder, *folder.parents)


def _umask() -> int:
    with _ASKING:
        mask = os.umask(0)
        os.umask(mask)
        return mask

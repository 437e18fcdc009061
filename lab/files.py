"""Files appear whole or not at all (written under a temporary name, then renamed), and JSON is read in one place."""

import errno
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from lab.errors import InputError

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EFBIG: "a file may not be so large here; raise the limit and run the same command again",
    errno.ENOENT: "nothing can be made there; choose another {place}",
    errno.EACCES: "no permission to write there; choose another {place}",
    errno.EPERM: "no permission to write there; choose another {place}",
    errno.EROFS: "the file system is read-only; choose another {place}",
    errno.ENOTDIR: "a part of the path is a file; choose another {place}",
    errno.EEXIST: "a file of that name is in the way; choose another {place}",
    errno.EISDIR: "a folder of that name is in the way; choose another {place}",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}

_HELD_ON_WINDOWS = {5, 32}
"""Windows' numbers for a file that is not replaced since a program has it open, or since it is write-protected."""

_ASKING = Lock()
"""The process' mask can only be asked for by setting another: a thread that asked meanwhile would be told that one."""

MAX_TEXT = 64 * 10**6
"""Bytes of a file of text: of more, something else is meant."""

MOST_MARKS = 9
"""Parts of a list of files that are looked for as one file whose name has the list's mark in it."""

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


def is_file(path: str | Path) -> bool:
    """Whether a file is there. False of paths that nothing can have, such as 300 letters, for which pathlib raises."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: str | Path) -> bool:
    """Whether a folder is there; False of paths that nothing can have."""
    return os.path.isdir(path)  # noqa: PTH112


def is_there(path: str | Path) -> bool:
    """Whether a file or folder is there; False of paths that nothing can have."""
    return os.path.exists(path)  # noqa: PTH110


def portable_name(text: str) -> str:
    """A text as a file's name that every system can have: as it stands, but for what Windows refuses and for what
    parts a path, in whose place `-` stands; behind names of Windows' devices (con, nul, com1) stands `_`."""
    kept = re.sub(r'[<>:"/\\|?*\x00-\x1f]', "-", text).rstrip(". ")
    return re.sub(r"(?i)^(con|prn|aux|nul|com\d|lpt\d)(?=\.|$)", r"\1_", kept) or "-"


@contextmanager
def writing(path: Path, place: str = "place") -> Iterator[None]:
    """Turns the operating system's refusals to write `path` into one line for people.

    Args:
        place: What to choose another of, such as `--out`.

    An error that names a file elsewhere, such as one that the block reads, passes as it is. A full disk names no file:
    nothing but the writing of `path` belongs in the block.

    Raises:
        InputError: the disk is full, or the file or its folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or not _is_about(error, path):
            raise
        if getattr(error, "winerror", None) in _HELD_ON_WINDOWS and is_file(path):
            raise InputError(
                f"{path}: cannot replace: it is open in another program, or write-protected; close it there and run "
                "the same command again"
            ) from None
        raise _cannot_write(path, error.errno, place) from None
    except ValueError as error:
        if "\0" not in str(path) and not isinstance(error, UnicodeEncodeError):
            raise
        problem = "half a character in it" if isinstance(error, UnicodeEncodeError) else error
        raise InputError(f"{str(path)!a}: cannot write: {problem}; choose another name") from None
    except Exception as error:
        code = _rust_errno(error)
        if code is None:
            raise
        raise _cannot_write(path, code, place) from None


def _cannot_write(path: Path, code: int, place: str) -> InputError:
    reason = _REASONS.get(code) or f"{os.strerror(code)}; choose another {{place}}"
    return InputError(f"{path}: cannot write: {reason.format(place=place)}")


def _rust_errno(error: Exception) -> int | None:
    """The operating system's error in a SafetensorError, which tells it in words alone: `... (os error 28)`."""
    found = (
        re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    )
    return int(found[1]) if found else None


def read_text(path: Path, what: str = "it") -> str:
    """The text of a UTF-8 file.

    Args:
        what: How errors call the file.

    Raises:
        InputError: no such file, unreadable, over 64 MB, or not UTF-8.
    """
    try:
        size = path.stat().st_size
        if size > MAX_TEXT:
            raise ValueError(
                f"{size / 1e6:.0f} MB, where a text of {MAX_TEXT / 1e6:.0f} MB at most is wanted"
            )
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        reason = "not UTF-8 text"
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except ValueError as error:  # such as a NUL in the path
        reason = str(error)
    raise InputError(f"{path}: cannot read {what}: {reason}")


def parse_json(text: str, where: object) -> Any:
    """The value of a JSON text.

    Args:
        where: Names the file in errors.

    Raises:
        InputError: not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        problem = str(error).partition(";")[0]  # behind it stands advice for whoever writes Python
        raise InputError(f"{where}: not valid JSON: {problem}") from None
    except RecursionError:
        raise InputError(f"{where}: not valid JSON: nested too deeply") from None


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        InputError: no such file, unreadable, or not a JSON object.
    """
    value = parse_json(read_text(path), path)
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def split_unless_there(text: str, mark: str, there: Callable[[str], bool] = is_there) -> list[str]:
    """The parts of a text between marks, without spaces around them; what is a file or folder is not parted.

    Args:
        there: Whether a part names something, by default a path as it stands.
    """
    parts = text.split(mark)
    found = []
    while parts:
        ends = range(min(len(parts), MOST_MARKS), 1, -1)
        end = next((end for end in ends if there(mark.join(parts[:end]).strip())), 1)
        found.append(mark.join(parts[:end]).strip())
        parts = parts[end:]
    return found


def check_writable(folder: Path, option: str = "--out") -> None:
    """Refuses a folder in which nothing could be written, before any work is done; makes no folder.

    Args:
        option: By which it was given.

    Raises:
        InputError: a file is in the way, the file system is read-only or full, or writing is not permitted.
    """
    folder = folder.expanduser()
    place = folder.absolute()
    with writing(folder, option):
        if folder.is_file():
            raise FileExistsError(errno.EEXIST, "File exists")
        while not place.exists():
            place = place.parent
        try:
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            raise OSError(
                error.errno, error.strerror
            ) from None  # names no file, so that it is told of `folder`


def _is_about(error: OSError, path: Path) -> bool:
    """Whether the error names no file, or one in the folder of `path` or above it."""
    if not isinstance(error.filename, str):
        return True
    named, folder = Path(error.filename).absolute(), path.absolute().parent
    return named.parent == folder or named in (folder, *folder.parents)


@cache
def _umask() -> int:
    """The process' mask; asked once, as files made meanwhile by other threads would be open to all."""
    with _ASKING:
        mask = os.umask(0)
        os.umask(mask)
        return mask

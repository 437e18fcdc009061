"""Files appear whole or not at all: written under a temporary name in the same folder, then renamed."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
}


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it when the block succeeds, removes it when not.

    The temporary name keeps the suffix of `path`, from which many libraries tell the format.

    Raises:
        InputError: the disk is full, or the folder cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
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
    """Turns the operating system's refusals to write `path` into one line for people."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REASONS:
            raise
        raise InputError(f"{path}: cannot write: {_REASONS[error.errno]}") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

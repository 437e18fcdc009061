"""Files that cannot be written: said in one line, of the right file."""

import errno

import pytest

from lab.errors import InputError
from lab.files import atomic, check_writable, writing


def test_a_folder_in_an_impossible_place(tmp_path):
    (tmp_path / "file").write_text("x")
    for folder, said in [
        (tmp_path / "file", "a file of that name is in the way"),
        (tmp_path / "file" / "below", "a part of the path is a file"),
        ("/proc/none/below", "cannot write"),
    ]:
        with pytest.raises(InputError, match=said):
            check_writable(type(tmp_path)(folder))
    check_writable(tmp_path / "new" / "below")
    assert not (tmp_path / "new").exists()


def test_a_full_disk_is_told_of_the_file_that_is_written(tmp_path):
    with (
        pytest.raises(InputError, match=r"x.png: cannot write: the disk is full"),
        atomic(tmp_path / "x.png"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_another_files_error_is_not_told_as_this_ones(tmp_path):
    with pytest.raises(PermissionError), writing(tmp_path / "progress.jsonl"):
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/cat.png")
    with (
        pytest.raises(InputError, match=r"progress.jsonl: cannot write"),
        writing(tmp_path / "progress.jsonl"),
    ):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "progress.jsonl"))

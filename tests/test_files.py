"""Files that cannot be written: said in one line, of the right file."""

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from lab.errors import InputError
from lab.files import (
    atomic,
    check_writable,
    is_file,
    is_folder,
    is_there,
    portable_name,
    read_json,
    split_unless_there,
    writing,
)


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


def test_a_file_that_is_open_on_windows_is_told(tmp_path):
    class InUseError(PermissionError):  # as Windows raises it when a program holds the file that is replaced
        winerror = 32

    (tmp_path / "index.html").write_text("old")
    with (
        pytest.raises(InputError, match=r"index.html: .* open in another program"),
        atomic(tmp_path / "index.html"),
    ):
        raise InUseError(errno.EACCES, "in use", str(tmp_path / ".index-1.html"))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("EasyNegative", "EasyNegative"),
        ("bad-hands.v2 (new)", "bad-hands.v2 (new)"),
        ("猫", "猫"),
        ("../styles/ink", "..-styles-ink"),
        ('C:\\x<y>|"?*', "C--x-y-----"),
        ("ends in a dot. ", "ends in a dot"),
        ("nul", "nul_"),
        ("Com1.card", "Com1_.card"),
        ("console", "console"),
        ("..", "-"),
    ],
)
def test_a_name_is_one_that_every_system_can_have(text, name):
    assert portable_name(text) == name == portable_name(name)


def test_another_files_error_is_not_told_as_this_ones(tmp_path):
    with pytest.raises(PermissionError), writing(tmp_path / "progress.jsonl"):
        raise PermissionError(errno.EACCES, "Permission denied", "/elsewhere/cat.png")
    with (
        pytest.raises(InputError, match=r"progress.jsonl: cannot write"),
        writing(tmp_path / "progress.jsonl"),
    ):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "progress.jsonl"))


def test_a_full_disk_is_one_when_safetensors_says_so(tmp_path):
    told = "Error while serializing: I/O error: No space left on device (os error 28)"
    with (
        pytest.raises(InputError, match=r"x\.safetensors: cannot write: the disk is full"),
        atomic(tmp_path / "x.safetensors"),
    ):
        raise SafetensorError(told)
    with pytest.raises(SafetensorError), atomic(tmp_path / "x.safetensors"):
        raise SafetensorError("Error while deserializing header: header too large")


def test_a_name_that_is_too_long_is_one_line(tmp_path):
    for name in ("x" * 300, "x" * 300 + ".pt"):
        for path in (tmp_path / name, tmp_path / name / "x.pt"):
            with pytest.raises(InputError, match="the name is too long"), atomic(path):
                pass
        with pytest.raises(InputError, match="the name is too long"):
            check_writable(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stem", ["\u732b" * 82, "x" * 250, "caf\udce9"])
def test_any_name_that_is_allowed_can_be_written(tmp_path, stem):
    with atomic(tmp_path / f"{stem}.pt") as temporary:
        temporary.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == [f"{stem}.pt"]


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "caf\udce9", "absent"])
def test_paths_that_nothing_can_have_are_missing(name):
    assert not is_file(name) and not is_folder(f"/tmp/{name}") and not is_there(name)


def test_what_can_be_made_nowhere_is_one_line():
    with pytest.raises(
        InputError, match="/proc/none: cannot write: nothing can be made there; choose another --index"
    ):
        check_writable(Path("/proc/none"), "--index")
    with pytest.raises(InputError, match="cannot write: embedded null"), writing(Path("a\0b")):
        Path("a\0b").mkdir()
    with pytest.raises(InputError, match="cannot write: half a character in it"), writing(Path("a\ud800")):
        Path("a\ud800").mkdir()


def test_a_list_is_not_parted_within_the_name_of_a_file(tmp_path):
    (tmp_path / "c++.pt").touch()
    (tmp_path / "d.pt").touch()
    text = f"none+{tmp_path}/c++.pt + {tmp_path}/d.pt"
    assert split_unless_there(text, "+") == ["none", f"{tmp_path}/c++.pt", f"{tmp_path}/d.pt"]
    assert split_unless_there("a,b,,c", ",") == ["a", "b", "", "c"]


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "not valid JSON"), ("[" * 9000, "nested too deeply"), ("3", "expected a JSON object")],
)
def test_json_that_is_none_is_one_line(tmp_path, text, said):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"x\.json: .*{said}"):
        read_json(path)

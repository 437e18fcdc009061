"""A few cases of `scripts/fuzz.py`, which tries many, and that it finds what is wrong."""

import pytest

from scripts.fuzz import cases
from scripts.fuzz_kinds import Kind, kinds_around

FEW = {"training": 1, "comparison": 1, "model": 2, "run": 2}
"""Cases where they take long; of the others three."""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return kinds_around(tmp_path_factory.mktemp("fuzz"))


NAMES = (
    "checkpoint comparison data embedding embeds image index lora model prompts record run training yaml"
).split()


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_came_back_otherwise_is_used_or_refused_in_one_line(table, name):
    assert set(table) == set(NAMES)
    assert list(cases(table[name], f"test {name}", FEW.get(name, 3))) == []


def test_what_is_no_input_error_is_found():
    def prepare(folder):
        (folder / "x.json").write_text('{"a": 1}')

    def use(folder):
        (folder / "x.json").read_bytes().decode()
        raise RuntimeError("two\nlines")

    found = list(cases(Kind(("x.json",), prepare, use), 0, 3))
    assert [number for number, _, _ in found] == [0, 1, 2]
    assert {file for _, file, _ in found} == {"x.json"}
    assert all("RuntimeError: two" in fault or "UnicodeDecodeError" in fault for _, _, fault in found)

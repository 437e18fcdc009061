"""The compel dialect: the library's findings, with their places in the source."""

import pytest

from lab.prompt.compel import read


def said(segments):
    return [(each.text, each.weight) for each in segments]


def test_operators():
    assert said(read("a red++ cat--, (deep fog)1.3").segments) == [
        ("a", 1.0),
        ("red", pytest.approx(1.21)),
        ("cat", pytest.approx(0.81)),
        (",", 1.0),
        ("deep fog", 1.3),
    ]


def test_blend_and_conjunction():
    (blend,) = read('("a b", "c").blend(0.7, 0.3)').terms
    assert [share for share, _ in blend.members] == [0.7, 0.3] and blend.normalized
    assert [said(segments) for _, segments in blend.members] == [[("a b", 1.0)], [("c", 1.0)]]
    first, second = read('("a", "b++").and(1, 0.5)').terms
    assert (first.weight, second.weight) == (1.0, 0.5)
    assert said(second.members[0][1]) == [("b", pytest.approx(1.21))]


def test_words_are_found_in_the_source():
    text = "a,b (1 2)1.2 \\(c\\) 1"
    found = {}
    for segment in read(text).segments:
        for run in segment.runs:
            found.setdefault(segment.text[run.at : run.at + run.length], []).append(run.start)
    assert found["a,"] == [0] and found["b"] == [2] and found["2"] == [7] and found["1"] == [5, len(text) - 1]
    assert "".join(found) and text.index("c") in found["c"]


def test_what_cannot_be_done_is_said():
    assert "--lora" in read("a cat withLora(x, 0.5)").problems[0]
    assert ".swap()" in read("a cat.swap(dog)").problems[0]


def test_what_the_library_cannot_parse_is_plain_text():
    for text in ("(" * 900, "(" * 5_000, "a " * 3_000):
        reading = read(text)
        assert said(reading.segments) == [(text, 1.0)] and len(reading.notes) == 1

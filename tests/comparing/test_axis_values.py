import pytest

from lab.comparing.axes import CellDraft, read_axis
from lab.comparing.axis_values import read_interval, read_numbers, read_texts


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("1-10 [5]", [1, 3.25, 5.5, 7.75, 10]),
        ("0.2-1.2 (+0.2)", [0.2, 0.4, 0.6, 0.8, 1.0, 1.2]),
        ("3-1 (-1)", [3, 2, 1]),
        ("1-4", [1, 2, 3, 4]),
        ("4, 7, 0.5", [4, 7, 0.5]),
        ([4, "7-8"], [4, 7, 8]),
        ("-1", [-1]),
        (3, [3]),
        ("5-9 [1]", [5]),
    ],
)
def test_numbers(written, expected):
    assert read_numbers(written) == expected


def test_counted_integers_are_the_nearest():
    assert read_numbers("1-10 [5]", whole=True) == [1, 3, 6, 8, 10]
    assert read_numbers([4, 8.0], whole=True) == [4, 8]


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("a", "1-10"),
        ("1-3 (-1)", "never"),
        ("1-3 (+0)", "never"),
        ("0-1 (+0.00001)", "more than"),
        ("1-3 [0]", "no values"),
        ([float("inf")], "no number"),
        ([None], "no number"),
    ],
)
def test_bad_numbers_say_what_to_write(written, words):
    with pytest.raises(ValueError, match=words):
        read_numbers(written)


def test_fractions_are_no_integers():
    with pytest.raises(ValueError, match="whole"):
        read_numbers("1.5", whole=True)


@pytest.mark.parametrize("written", ["0 5", " 0  5.0", [0, 5], (0, "5")])
def test_intervals(written):
    assert read_interval(written) == [0, 5]


@pytest.mark.parametrize("written", ["5", "0-5", "0 a", "0 1-5", "0 1 2", 5, [5], [[0, 5], 1], None])
def test_bad_intervals_say_what_to_write(written):
    with pytest.raises(ValueError, match="LOW HIGH"):
        read_interval(written)


def test_texts():
    assert read_texts('"", "blurry, noisy", plain') == ["", "blurry, noisy", "plain"]
    assert read_texts(["a, b", "", 7]) == ["a, b", "", "7"]


@pytest.mark.parametrize("value", [None, True, {"a": 1}, ["a"]])
def test_what_is_no_text_is_no_text(value):
    with pytest.raises(ValueError, match="no text; write it in quotes"):
        read_texts(["red", value])


def test_where_an_axis_has_no_controlnet_nothing_speaks_of_one():
    """With and without one is the comparison that comes to mind, and the image that it reads stands beside the axis."""
    without, some = read_axis("controlnet", "none, some-net")
    draft = CellDraft("a cat", 1, {"control_image": "shapes.png", "control_scale": 0.5, "steps": 2})
    assert without.apply(draft).settings == {"steps": 2}
    assert some.apply(draft).settings == draft.settings | {"controlnet": "some-net"}

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.sample.config import MAX_SEED, join_seeds, parse_seeds


def test_lists_and_ranges():
    assert parse_seeds("1-4,9") == [1, 2, 3, 4, 9]
    assert parse_seeds(" 7 , 3-3 ") == [7, 3]


@given(st.lists(st.integers(0, MAX_SEED), min_size=1, unique=True))
def test_lists_survive_the_round_trip(seeds):
    assert parse_seeds(join_seeds(seeds)) == seeds


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "1-4,9"),
        ("a", "1-4,9"),
        ("1-", "1-4,9"),
        ("-1", "1-4,9"),
        ("4-1", "1-4"),
        ("3,1-5", "twice"),
        ("1-9999999999999", "split"),
        (str(2**64), "largest"),
    ],
)
def test_bad_seeds_say_what_to_write(text, word):
    with pytest.raises(ValueError, match=word):
        parse_seeds(text)

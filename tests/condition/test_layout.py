"""Chunks: where they end, and that no word and no embedding is split."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.condition.chunks import fill_chunks, first_chunk
from lab.condition.tokens import Word
from lab.errors import InputError
from lab.prompt.dialects import DIALECTS


def word(text, length=1):
    return Word(text, (tuple(range(length)),), (0, 1))


def learned(length):
    return Word("toy", ((0,) * length,), (0, 1), embedding="toy")


def texts(chunks):
    return [" ".join(piece.text for piece in chunk) for chunk in chunks]


def laid(stretches, room=10, dialect="a1111", backtrack=4):
    return texts(fill_chunks(stretches, room, DIALECTS[dialect].split, backtrack))


def words(text, *more):
    """A list of words for each stretch between two BREAKs."""
    stretches = [[]]
    for each in text.split():
        if each == "BREAK":
            stretches.append([])
        else:
            stretches[-1].append(word(each))
    stretches[-1] += more
    return stretches


def test_a_full_chunk_ends_at_a_comma_in_reach():
    assert laid(words("1 2 3 4 5 6 , 8 9 10 11 12")) == ["1 2 3 4 5 6 ,", "8 9 10 11 12"]


def test_a_comma_out_of_reach_does_not_count():
    assert laid(words("1 2 3 4 5 , 7 8 9 10 11 12")) == ["1 2 3 4 5 , 7 8 9 10", "11 12"]
    assert laid(words("1 2 3 4 5 6 , 8 9 10 11 12"), backtrack=0) == ["1 2 3 4 5 6 , 8 9 10", "11 12"]


def test_a_comma_that_comes_next_ends_no_chunk_early():
    assert laid(words("1 2 3 4 5 6 , 8 9 10 , 12")) == ["1 2 3 4 5 6 , 8 9 10", ", 12"]


def test_words_and_embeddings_stay_whole():
    assert laid(words("1 2 3 4 5 6 7 8", word("long", 3))) == ["1 2 3 4 5 6 7 8", "long"]
    assert laid(words("1 2 3 4 5 6 , 8", learned(3))) == ["1 2 3 4 5 6 , 8", "toy"]
    assert laid(words("1 2 3 4 5 6 , 8 9 10", learned(3))) == ["1 2 3 4 5 6 ,", "8 9 10 toy"]


def test_comfy_ends_chunks_at_words_alone():
    assert laid(words("1 2 3 4 5 6 , 8 9 10 11"), dialect="comfy") == ["1 2 3 4 5 6 , 8 9 10", "11"]


def test_compel_ends_chunks_at_sentences_then_phrases():
    assert laid(words("1 . 3 , 5 6 7 8 9 10 11"), dialect="compel") == ["1 .", "3 , 5 6 7 8 9 10 11"]
    assert laid(words("1 2 3 , 5 6 7 8 9 10 11"), dialect="compel") == ["1 2 3 ,", "5 6 7 8 9 10 11"]


def test_break_ends_a_chunk_and_the_last_one_is_not_left_empty():
    assert laid(words("1 BREAK 2")) == ["1", "2"]
    assert laid(words("1 BREAK BREAK 2")) == ["1", "", "2"]
    assert laid(words("1 BREAK")) == ["1"]
    assert laid(words("BREAK 1")) == ["", "1"]
    assert laid([[]]) == laid([]) == [""]


def test_only_a_word_longer_than_a_chunk_is_cut():
    (first, second) = fill_chunks([[word("endless", 14)]], 10, DIALECTS["a1111"].split, 4)
    assert [piece.length for piece in (*first, *second)] == [10, 4]


def test_an_embedding_longer_than_a_chunk_stops():
    with pytest.raises(InputError, match="embedding toy: its 11 vectors do not fit in a chunk of 10"):
        laid([[learned(11)]])


def test_first_chunk_cuts_a_word_but_no_embedding():
    assert [piece.length for piece in first_chunk([word("a", 8), word("b", 5)], 10)] == [8, 2]
    assert [piece.length for piece in first_chunk([word("a", 8), learned(5)], 10)] == [8]


LENGTHS = st.lists(st.tuples(st.integers(1, 12), st.sampled_from(["w", ",", ".", ";", "BREAK"])), max_size=40)


@settings(max_examples=100, deadline=None)
@given(LENGTHS, st.sampled_from(["a1111", "comfy", "compel", "plain"]), st.integers(0, 12))
def test_nothing_is_lost_and_nothing_overflows(plan, dialect, backtrack):
    stretches = [[]]
    for length, sign in plan:
        if sign == "BREAK":
            stretches.append([])
        else:
            stretches[-1].append(word(sign, 1 if sign in ",.;" else length))
    chunks = fill_chunks(stretches, 10, DIALECTS[dialect].split, backtrack)
    assert all(chunk.length <= 10 for chunk in chunks)
    total = sum(each.length for stretch in stretches for each in stretch)
    assert sum(chunk.length for chunk in chunks) == total

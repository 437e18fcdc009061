"""Chunks: where they end, and which words are cut there."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.condition.chunks import fill_chunks, first_chunk
from lab.condition.conditioning import cut_notes
from lab.condition.encode import encode
from lab.condition.tokens import Word
from lab.errors import InputError
from lab.prompt.dialects import DIALECTS
from tests.condition.samples import close, embedding_for


def word(text, length=1, group=0):
    return Word(text, (tuple(range(length)),), (0, 1), group=group, spelling=text)


def learned(length, group=1):
    return Word("toy", ((0,) * length,), (0, 1), embedding="toy", group=group)


def texts(chunks):
    return [" ".join(piece.text for piece in chunk) for chunk in chunks]


def laid(stretches, room=10, dialect="a1111", backtrack=4, keep_words=False):
    return texts(fill_chunks(stretches, room, DIALECTS[dialect].split, backtrack, keep_words))


def lengths(stretches, dialect, keep_words=False):
    chunks = fill_chunks(stretches, 75, DIALECTS[dialect].split, 20, keep_words)
    return [chunk.length for chunk in chunks]


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


def test_a_word_right_behind_a_comma_moves_on_whole():
    long = word("long", 3)
    assert laid([[*words("1 2 3 4 5 6 7 8 ,")[0], long]]) == ["1 2 3 4 5 6 7 8 ,", "long"]


def test_a_comma_in_one_piece_with_other_signs_is_none(sd1):
    """Its token is not the comma's, which alone the web UI asks for."""

    def first_chunk(text):
        spans = encode(sd1, text).spans
        return sum(span.start < 77 for span in spans)

    assert first_chunk("a " * 70 + ", a a a a a a") == 71
    assert first_chunk("a " * 70 + ",: a a a a a") == 75


def test_a_comma_out_of_reach_does_not_count():
    assert laid(words("1 2 3 4 5 , 7 8 9 10 11 12")) == ["1 2 3 4 5 , 7 8 9 10", "11 12"]
    assert laid(words("1 2 3 4 5 6 , 8 9 10 11 12"), backtrack=0) == ["1 2 3 4 5 6 , 8 9 10", "11 12"]


def test_a_comma_that_comes_next_ends_no_chunk_early():
    assert laid(words("1 2 3 4 5 6 , 8 9 10 , 12")) == ["1 2 3 4 5 6 , 8 9 10", ", 12"]


def test_words_can_be_kept_and_embeddings_are():
    assert laid(words("1 2 3 4 5 6 7 8", word("long", 3))) == ["1 2 3 4 5 6 7 8 long", "long"]
    for dialect in DIALECTS:
        kept = laid(words("1 2 3 4 5 6 7 8", word("long", 3)), dialect=dialect, keep_words=True)
        assert kept == ["1 2 3 4 5 6 7 8", "long"]
    assert laid(words("1 2 3 4 5 6 , 8", learned(3))) == ["1 2 3 4 5 6 , 8", "toy"]
    assert laid(words("1 2 3 4 5 6 , 8 9 10", learned(3))) == ["1 2 3 4 5 6 ,", "8 9 10 toy"]


def test_a1111_cuts_the_word_at_the_75th_token():
    """What A1111's `tokenize_line` gives for "a " * 74 + "rutkowski" and "a " * 73 + "rain-soaked b"."""
    assert lengths([[*[word("a")] * 74, word("rutkowski", 2)]], "a1111") == [75, 1]
    assert lengths([[*[word("a")] * 73, word("rain-soaked", 3), word("b")]], "a1111") == [75, 2]
    assert laid(words("1 2 3 4 5 6 , 8 9", word("long", 3))) == ["1 2 3 4 5 6 ,", "8 9 long"]


def test_comfy_moves_small_segments_and_cuts_others():
    """What ComfyUI's `tokenize_with_weights` gives since 1c8d11e4 for the prompts of the same words."""
    a = [word("a")]
    assert lengths([[*a * 74, word("rutkowski", 2)]], "comfy") == [75, 1]
    bcdef = [word("b", group=1), *(word(letter, group=2) for letter in "cdef")]
    assert lengths([[*a * 73, *bcdef]], "comfy") == [74, 4]
    assert lengths([[*a * 70, *(word(letter, group=1) for letter in "bcdefg")]], "comfy") == [70, 6]
    assert lengths([[*a * 70, *(word(letter, group=1) for letter in "bcdefghi")]], "comfy") == [75, 3]
    assert lengths([[*a * 70, learned(7)]], "comfy") == [70, 7]
    assert laid(words("1 2 3 4 5 6 , 8 9 10 11"), dialect="comfy") == ["1 2 3 4 5 6 , 8 9 10", "11"]


def test_comfy_cuts_an_embedding_of_eight_vectors():
    first, second = fill_chunks([[*[word("a")] * 70, learned(8)]], 75, DIALECTS["comfy"].split)
    assert (first.length, second.length, first[-1].skipped, second[0].skipped) == (75, 3, 0, 5)
    assert lengths([[*[word("a")] * 70, learned(8)]], "comfy", keep_words=True) == [70, 8]


def test_what_is_cut_is_said():
    chunks = fill_chunks([[*[word("a")] * 74, word("rutkowski", 2)]], 75, DIALECTS["a1111"].split)
    (note,) = cut_notes(chunks)
    assert (
        note.startswith("'rutkowski' is cut between chunks 1 and 2: 1 of its tokens")
        and "--keep-words" in note
    )
    assert not list(cut_notes(fill_chunks([[word("a")] * 76], 75, DIALECTS["a1111"].split)))


def test_long_prompts_in_compel_are_told_of(sd1):
    """The library's `truncate_long_prompts` is on by default."""
    (note,) = encode(sd1, "a " * 80, dialect="compel").first.notes
    assert "truncate_long_prompts=False" in note
    assert not encode(sd1, "a " * 70, dialect="compel").first.notes


def test_comfys_words_are_cut_in_the_embeddings_too(sd1):
    """Eight vectors over two chunks: five at the end of one, three at the beginning of the other."""
    toy = embedding_for(sd1, vectors=8)
    made = encode(sd1, "a " * 70 + "embedding:toy", embeddings=[toy], dialect="comfy")
    assert [(span.start, span.end, span.skipped) for span in made.spans[-2:]] == [(71, 76, 0), (78, 81, 5)]
    first = embedding_for(sd1, vectors=8)
    first.vectors["clip"] = first.vectors["clip"][5:]
    assert close(made.embeds[77:], encode(sd1, "<toy>", embeddings=[first]).embeds)


@pytest.mark.parametrize(
    "text, expected", [("rain-soaked", ["rain", "-", "soaked"]), ("35mm", ["3", "5", "mm"]), ("!!!", ["!!!"])]
)
def test_compels_words_end_where_the_tokenizer_ends_them(sd1, text, expected):
    assert [span.text for span in encode(sd1, text, dialect="compel").spans] == expected
    assert next(span.text for span in encode(sd1, text, dialect="compel", keep_words=True).spans) != "rain"


def test_compel_ends_chunks_at_sentences_then_phrases():
    assert laid(words("1 . 3 , 5 6 7 8 9 10 11"), dialect="compel") == ["1 .", "3 , 5 6 7 8 9 10 11"]
    assert laid(words("1 2 3 , 5 6 7 8 9 10 11"), dialect="compel") == ["1 2 3 ,", "5 6 7 8 9 10 11"]


def test_break_ends_a_chunk_and_the_last_one_is_not_left_empty():
    assert laid(words("1 BREAK 2")) == ["1", "2"]
    assert laid(words("1 BREAK BREAK 2")) == ["1", "", "2"]
    assert laid(words("1 BREAK")) == ["1"]
    assert laid(words("BREAK 1")) == ["", "1"]
    assert laid([[]]) == laid([]) == [""]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_word_longer_than_a_chunk_is_cut_everywhere(dialect):
    (first, second) = fill_chunks([[word("endless", 14)]], 10, DIALECTS[dialect].split, 4, keep_words=True)
    assert [piece.length for piece in (*first, *second)] == [10, 4]


def test_an_embedding_longer_than_a_chunk_stops():
    with pytest.raises(InputError, match="embedding toy: its 11 vectors do not fit in a chunk of 10"):
        laid([[learned(11)]])


def test_first_chunk_cuts_a_word_but_no_embedding():
    assert [piece.length for piece in first_chunk([word("a", 8), word("b", 5)], 10)] == [8, 2]
    assert [piece.length for piece in first_chunk([word("a", 8), learned(5)], 10)] == [8]


LENGTHS = st.lists(st.tuples(st.integers(1, 12), st.sampled_from(["w", ",", ".", ";", "BREAK"])), max_size=40)


@settings(max_examples=100, deadline=None)
@given(LENGTHS, st.sampled_from(["a1111", "comfy", "compel", "plain"]), st.integers(0, 12), st.booleans())
def test_nothing_is_lost_and_nothing_overflows(plan, dialect, backtrack, keep_words):
    stretches = [[]]
    for number, (length, sign) in enumerate(plan):
        if sign == "BREAK":
            stretches.append([])
        else:
            stretches[-1].append(word(sign, 1 if sign in ",.;" else length, group=number // 4))
    chunks = fill_chunks(stretches, 10, DIALECTS[dialect].split, backtrack, keep_words)
    assert all(chunk.length <= 10 for chunk in chunks)
    total = sum(each.length for stretch in stretches for each in stretch)
    assert sum(chunk.length for chunk in chunks) == total

"""What holds for any text in every dialect."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.prompt.dialects import DIALECTS
from lab.prompt.parse import parse, references_in, resolve, without_comments
from lab.prompt.syntax import Reference

SYNTAX = st.lists(
    st.sampled_from(
        ["(", ")", "[", "]", ":", "|", "\\", " ", "a", "cat", "1.3", ":0.5)", "[a:b:3]", "AND", "BREAK", "+", "--",
         '"', ",", ".blend(", "é", "\n", "\ue000", "<x>"]
    ),
    max_size=12,
).map("".join)  # fmt: skip
ANY = st.one_of(SYNTAX, st.text(max_size=20))
REMOVED = re.compile(r"(?:[()\[\]\\]|:\s*[-+.\de_naif]*\s*\)?)*", re.IGNORECASE)
BREAK = re.compile(r"\s*\bBREAK\b\s*")


def segments(text, dialect, references=(), steps=4):
    timelines = resolve(parse(text, dialect, references), steps)
    return [each for part in timelines for variant in part.variants for each in variant.segments]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_any_text_parses(dialect):
    @settings(max_examples=15 if dialect == "compel" else 80, deadline=None)
    @given(ANY)
    def check(text):
        timelines = resolve(parse(text, dialect), 4)
        assert timelines and all(part.variants[-1].until == 4 for part in timelines)
        for part in timelines:
            untils = [variant.until for variant in part.variants]
            assert untils == sorted(set(untils))
        for segment in segments(text, dialect):
            assert 0 <= segment.span[0] <= segment.span[1] <= len(text)

    check()


@pytest.mark.parametrize("dialect", ["a1111", "comfy", "plain"])
def test_spans_rebuild_the_source(dialect):
    @settings(max_examples=80, deadline=None)
    @given(ANY)
    def check(text):
        for segment in segments(text, dialect):
            assert segment.text == "".join(text[run.start : run.start + run.length] for run in segment.runs)
            for at in range(len(segment.text)):
                start, end = segment.locate(at, at + 1)
                assert text[start:end] == segment.text[at]

    check()


@settings(max_examples=80, deadline=None)
@given(ANY.filter(lambda text: not re.search(r"\bAND\b|[|\[\]#]", text)))
def test_what_segments_leave_out_is_syntax(text):
    for dialect in ("comfy", "a1111"):
        # the prompt's own weight and what stands behind it belong to no segment
        (part,) = resolve(parse(text, dialect), 1)
        end = len(part.variants[0].text) if dialect == "a1111" else len(text)
        used = {at for each in part.variants[0].segments for at in _characters(each)}
        used |= {at for match in BREAK.finditer(text) for at in range(*match.span())}  # spaces go with it
        gaps = "".join(text[at] if at not in used else "\0" for at in range(end)).split("\0")
        assert all(REMOVED.fullmatch(gap) for gap in gaps), gaps


def _characters(segment):
    return range(*segment.span) if segment.kind == "break" else [
        at for run in segment.runs for at in range(run.start, run.start + run.length)
    ]  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(st.text(alphabet="abc ,.é'\n", max_size=30))
def test_plain_text_is_the_same_in_a1111_comfy_and_plain(text):
    words = {
        dialect: "".join(each.text for each in segments(text, dialect))
        for dialect in ("a1111", "comfy", "plain")
    }
    assert words["a1111"] == text.rstrip() and words["comfy"] == words["plain"] == text


@pytest.mark.parametrize(
    "text",
    ["(" * 10_000, "[" * 10_000, "(" * 5_000 + ")" * 5_000, "[a|" * 3_000, "(a" * 5_000, "((a:1)" * 2_000,
     "[" * 5_000 + "a" + ":1]" * 5_000, "\\(" * 5_000, "a AND " * 3_000, " " * 50_000 + "x"],
)  # fmt: skip
@pytest.mark.parametrize("dialect", DIALECTS)
def test_long_and_deep_texts_parse(text, dialect):
    assert resolve(parse(text, dialect), 3)


def test_references_are_atoms_in_every_dialect():
    text = "a (<x:2|y [z>:0.5) b"
    reference = Reference("x:2|y [z", (3, 13))
    for dialect, weight in (("a1111", 0.5), ("comfy", 0.5), ("plain", 1.0)):
        (found,) = [each for each in segments(text, dialect, [reference]) if each.kind == "embedding"]
        assert (found.text, found.weight, found.span) == ("x:2|y [z", weight, (3, 13))
    (found,) = [
        each for each in segments("a <toy>++ b", "compel", [Reference("toy", (2, 7))]) if each.kind != "text"
    ]
    assert (found.text, found.weight, found.span) == ("toy", pytest.approx(1.21), (2, 7))


def test_neighbouring_references_stay_apart():
    references = [Reference("a", (0, 3)), Reference("b", (3, 6))]
    assert [each.text for each in segments("<a><b>", "a1111", references)] == ["a", "b"]


def test_references_switch_with_schedules():
    (only,) = resolve(parse("[<a>:<b>:1]", "a1111", [Reference("a", (1, 4)), Reference("b", (5, 8))]), 2)
    assert [[each.text for each in variant.segments] for variant in only.variants] == [["a"], ["b"]]
    assert [variant.text for variant in only.variants] == ["<a>", "<b>"]


def test_words_that_only_a1111_knows_are_noted():
    (only,) = resolve(parse("a BREAK b AND c", "comfy"), 1)
    assert len(only.variants[0].reading.notes) == 2


LENIENT = {
    "a cat,embedding:toy, dog": "would not apply it",
    "(dog,embedding:toy:1.2)": "would not apply it",
    "[embedding:toy]": "would not apply it",
    "embedding:toy,dog": "look for 'toy,dog'",
    "embedding:toy. dog": "look for 'toy.'",
    "embedding:toy's style": "look for 'toy's'",
    "embedding:toy:1.2": "look for 'toy:1.2'",
    "embedding:TOY": "look for 'TOY'",
    "an embedding: it is": "an embedding 'it' and leave it out",
}


@pytest.mark.parametrize("text, says", LENIENT.items())
def test_what_comfyui_would_not_apply_is_noted(text, says):
    """What its SDTokenizer.tokenize_with_weights makes of them."""
    references = references_in(text, ["toy"], "comfy")
    (note,) = resolve(parse(text, "comfy", references), 1)[0].variants[0].reading.notes
    assert says in note
    assert not parse(text, "plain", references_in(text, ["toy"], "plain")).notes


@pytest.mark.parametrize(
    "text",
    ["(embedding:toy:1.2), a embedding:toy, b\nembedding:toy.pt", "embedding: toy c", "(a)embedding:toy", "a <toy>"],
)  # fmt: skip
def test_what_comfyui_would_apply_is_not(text):
    assert not parse(text, "comfy", references_in(text, ["toy"], "comfy")).notes


def test_a_weight_at_the_end_is_noted():
    assert "guidance by 9," in parse("movie poster, aspect ratio 16:9").notes[0]
    assert not parse("a:1 AND b:2").notes and not parse("a cat:1").notes and not parse("b:9", "comfy").notes


def test_a_negative_prompt_is_not_composed():
    for text, said in (("blurry AND ugly", "AND"), ("worst quality, lowres:1.4", "weight")):
        (only,) = resolve(parse(text, negative=True), 1)
        assert (only.weight, only.variants[0].text) == (1.0, text)
        (note,) = only.variants[0].reading.notes
        assert said in note
    (only,) = resolve(parse("bad, (lowres:1.4)", negative=True), 1)
    assert not only.variants[0].reading.notes and [each.weight for each in only.variants[0].segments] == [
        1.0,
        1.4,
    ]


COMMENTS = {
    "a cat #1 quality, dog": "a cat ",
    "a cat # (dog\n, red": "a cat \n, red",
    "# all\na [cat:#dog\nhat:1]": "\na \nhat",
    "a #cat AND b\n AND c": "a \n",
    "#": "",
}


@pytest.mark.parametrize("text, expected", COMMENTS.items())
def test_the_web_ui_has_comments(text, expected):
    """As its modules/processing_scripts/comments.py takes them out, save for what it does to line breaks."""
    first = resolve(parse(text), 2)[0].variants[-1]
    assert first.text.rstrip() == expected.rstrip()
    for segment in first.segments:
        assert segment.text == "".join(text[run.start : run.start + run.length] for run in segment.runs)
    assert without_comments("a #<cat>\nb #", "a1111") == "a       \nb  "
    assert resolve(parse(text, "plain"), 2)[0].variants[0].text == text

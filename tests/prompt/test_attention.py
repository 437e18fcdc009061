"""Attention in the a1111 and comfy dialects: the reference's known cases, and cases recorded from the tools."""

import pytest

from lab.prompt import a1111, comfy


def said(reading):
    return [("BREAK" if each.kind == "break" else each.text, each.weight) for each in reading.segments]


A1111 = {
    "normal text": [("normal text", 1.0)],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "(unbalanced": [("unbalanced", 1.1)],
    r"\(literal\]": [("(literal]", 1.0)],
    "(unnecessary)(parens)": [("unnecessaryparens", 1.1)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        ("a ", 1.0),
        ("house", 1.573),
        (" ", 1.1),
        ("on", 1.0),
        (" a ", 1.1),
        ("hill", 0.55),
        (", sun, ", 1.1),
        ("sky", 1.4641),
        (".", 1.1),
    ],
    "[less] (more:2)": [("less", 1 / 1.1), (" ", 1.0), ("more", 2.0)],
    "(spaced : 1.5 )": [("spaced ", 1.5)],
    "(a:1.2.3)": [("a:1.2.3", 1.1)],
    "crossed (a [b) c] d": [
        ("crossed ", 1.0),
        ("a ", 1.1),
        ("b", 1.0),
        (" c", 1 / 1.1),
        (" d", 1.0),
    ],
    "stray ) and ] and :1.3)": [("stray ) and ] and :1.3)", 1.0)],
    "a\\b": [("ab", 1.0)],
    "\\\\": [("\\", 1.0)],
    "one BREAK two": [("one", 1.0), ("BREAK", 1.0), ("two", 1.0)],
    "BREAKFAST": [("BREAKFAST", 1.0)],
    "": [],
}

COMFY = {
    "a (b) c": [("a ", 1.0), ("b", 1.1), (" c", 1.0)],
    "((b))": [("b", 1.21)],
    "(a (b:1.5) c:0.5)": [("a ", 0.5), ("b", 1.5), (" c", 0.5)],
    "(a (b) c:2)": [("a ", 2.0), ("b", 2.2), (" c", 2.0)],
    "[a] {b}": [("[a] {b}", 1.0)],
    r"\(a\) (b\):1.3)": [("(a) ", 1.0), ("b)", 1.3)],
    "(open": [("(open", 1.0)],
    "(open (closed) end": [("(open (closed) end", 1.0)],
    "((odd)": [("(odd", 1.1)],
    "a) (b) c": [("a) (b) c", 1.0)],
    "a) ((b)) c": [("a) (", 1.0), ("b", 1.1), (") c", 1.0)],
    "(a:b)": [("a:b", 1.1)],
    "(:1.5)": [(":1.5", 1.1)],
    "()": [],
    "": [],
    "sad :(": [("sad :", 1.0), ("(", 1.0)],
    "a,(b": [("a,", 1.0), ("(b", 1.0)],
    "a (b (c d) e": [("a ", 1.0), ("(b (c d) e", 1.0)],
    "a (b,(c:1.2)": [("a ", 1.0), ("b,", 1.2), ("(c", 1.2)],
}


@pytest.mark.parametrize(("text", "expected"), A1111.items())
def test_a1111_reads_as_the_web_ui(text, expected):
    found = said(a1111.read(text))
    assert [word for word, _ in found] == [word for word, _ in expected]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in expected])


@pytest.mark.parametrize(("text", "expected"), COMFY.items())
def test_comfy_reads_as_comfyui(text, expected):
    found = said(comfy.read(text))
    assert [word for word, _ in found] == [word for word, _ in expected]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in expected])


def test_equal_weights_are_equal_to_the_last_digit():
    """A1111 multiplies from the inside out, so that what it joins is one text."""
    (only,) = a1111.read("(un([want])ed:0.333)").segments
    assert (only.text, only.weight) == ("unwanted", 0.333)


CLEANED = {
    "don’t “quote” ‚me‛": "don't \"quote\" 'me'",
    "salt &amp; pepper &#39;n&#x2019; &hellip; &notit; &": "salt & pepper 'n' … &notit; &",
    "&amp;amp;": "&",
    "a\n&lt;b&gt; < &amp;": "a\n&lt;b&gt; < &amp;",
    "&gt;\na < b &gt;": ">\na < b &gt;",
    "ｆｕｌｌ，（ｗｉｄｔｈ）　ｶﾀｶﾅ": "full,(width) カタカナ",
    "ﬁne ﬂower ĳ ﬅ": "fine flower ij \u017ft",
    "a\x07b\ufeff\x92c\x1b[31m": "ab'c",
    "naïve 日本 … — ½": "naïve 日本 … — ½",
}


@pytest.mark.parametrize("text, expected", CLEANED.items())
def test_text_is_cleaned_as_by_ftfy(text, expected):
    cleaned, origins = a1111.clean(text)
    assert cleaned == expected
    for character, (start, end) in zip(cleaned, origins, strict=True):
        assert a1111.clean(text[start:end])[0] == character or character in a1111.clean(text[start:end])[0]


def test_break_inside_brackets_is_a_word():
    """As `parse_prompt_attention` gives it, whose caller takes only a BREAK of weight -1 for one."""
    read = a1111.read("(a cat BREAK a dog:1.2)")
    assert [(each.kind, each.text, each.weight) for each in read.segments] == [
        ("text", "a cat", 1.2),
        ("text", "BREAK", -1.2),
        ("text", "a dog", 1.2),
    ]
    assert "BREAK inside brackets" in read.notes[0] and not a1111.read("(a:1.2) BREAK b").notes
    assert [each.text for each in a1111.read("(a BREAK:0)").segments] == ["aBREAK"]
    assert [each.kind for each in a1111.read("(a BREAK b:1)").segments] == ["text", "break", "text"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a cat", [(1.0, "a cat")]),
        ("a cat AND a dog", [(1.0, "a cat"), (1.0, " a dog")]),
        ("a cat :1.2 AND a dog: -0.5 AND fog:.5", [(1.2, "a cat"), (-0.5, " a dog"), (0.5, " fog")]),
        ("SAND AND LAND", [(1.0, "SAND"), (1.0, " LAND")]),
        ("a cat:1.5", [(1.5, "a cat")]),
        ("(a cat:1.5)", [(1.0, "(a cat:1.5)")]),
        ("AND", [(1.0, ""), (1.0, "")]),
    ],
)
def test_and_composes(text, parts):
    assert [(weight, text[slice(*span)]) for weight, span in a1111.compose(text)] == parts


def test_an_empty_text_of_another_weight_parts_its_neighbours():
    assert said(a1111.read("cat(\\:1.3)b")) == [("cat", 1.0), ("b", 1.0)]
    assert said(a1111.read("cat()b\\d")) == [("catbd", 1.0)]

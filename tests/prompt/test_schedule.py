"""Prompt editing: what the web UI's own parser gives over 10 steps, or over the steps given."""

import pytest

from lab.prompt.parse import parse, resolve
from lab.prompt.schedule import parse_nodes
from lab.prompt.syntax import Alternation, Group, Schedule, Text


def timeline(text, steps=10):
    (only,) = resolve(parse(text), steps)
    return [(variant.until, variant.text) for variant in only.variants]


KNOWN = {
    "test": [(10, "test")],
    "a [b:3]": [(3, "a "), (10, "a b")],
    "a [b: 3 ]": [(3, "a "), (10, "a b")],
    "a [[[b]]:2]": [(2, "a "), (10, "a [[b]]")],
    "[(a:2):3]": [(3, ""), (10, "(a:2)")],
    "a [b : c : 1] d": [(1, "a b  d"), (10, "a  c  d")],
    "a[b:[c:d:2]:1]e": [(1, "abe"), (2, "ace"), (10, "ade")],
    "a [unbalanced": [(10, "a [unbalanced")],
    "a [b:.5] c": [(5, "a  c"), (10, "a b c")],
    "a [b::.25] c": [(2, "a b c"), (10, "a  c")],
    "((a][:b:c [d:3]": [(3, "((a][:b:c "), (10, "((a][:b:c d")],
    "a [{b|d{:.5] c": [(10, "a [{b|d{:.5] c")],
    "a [b:0] c": [(10, "a b c")],
    "a [b:-2] c": [(10, "a b c")],
    "a [b:c:99] d": [(10, "a b d")],
    "a [b:c:1.0] d": [(10, "a b d")],
    "a [b:c:1] d": [(1, "a b d"), (10, "a c d")],
    "a [b:c:1e400] d": [(10, "a b d")],
    "[a:b:c:3]": [(10, "[a:b:c:3]")],
    "[a:b]": [(10, "[a:b]")],
    "[cat:dog:0.5\u3000]": [(5, "cat"), (10, "dog")],
    "[cat:dog:\u00a00.5]": [(5, "cat"), (10, "dog")],
    "[cat:dog:\u0663]": [(10, "[cat:dog:\u0663]")],
    r"[a\:b:3]": [(3, ""), (10, r"a\:b")],
    "[a:b:3] and | a bar": [(10, "[a:b:3] and | a bar")],
    "[a:b:3] backslash\\": [(10, "[a:b:3] backslash\\")],
    "(x [a:b:3]": [(3, "(x a"), (10, "(x b")],
}


@pytest.mark.parametrize(("text", "expected"), KNOWN.items())
def test_schedules(text, expected):
    assert timeline(text) == expected


def test_alternation_takes_turns_step_by_step():
    assert timeline("[a|(b:1.1)]", 3) == [(1, "a"), (2, "(b:1.1)"), (3, "a")]
    assert timeline("[a|b|c]", 4) == [(1, "a"), (2, "b"), (3, "c"), (4, "a")]
    assert timeline("x[|y]", 3) == [(1, "x"), (2, "xy"), (3, "x")]
    assert timeline("[a|[b:c:3]]", 4) == [(1, "a"), (2, "b"), (3, "a"), (4, "c")]


def test_parsed_data_shows_schedules_and_alternations():
    text = "a [b|c] (d:1.2) [e:f:0.5]"
    start, alternation, _, group, _, schedule = parse_nodes(text, 0, len(text))
    assert start == Text((0, 2))
    assert isinstance(alternation, Alternation) and [
        text[slice(*option[0].span)] for option in alternation.options
    ] == ["b", "c"]
    assert isinstance(group, Group) and text[slice(*group.span)] == "(d:1.2)"
    assert isinstance(schedule, Schedule) and schedule.when == "0.5" and schedule.switch(20) == 10


def test_weights_stand_inside_schedules():
    (only,) = resolve(parse("[a (b:1.3):c:1]"), 2)
    assert [(each.text, each.weight) for each in only.variants[0].segments] == [("a ", 1.0), ("b", 1.3)]
    assert [(each.text, each.weight) for each in only.variants[1].segments] == [("c", 1.0)]

"""Embeddings named in prompts."""

import pytest

from lab.errors import InputError
from lab.prompt.references import find_bare_names, find_references

NAMES = ["x-200", "x-2000", "Cat Toy", "bad.v2", "bad", "Twin", "twin"]


def found(text):
    return [(each.name, text[slice(*each.span)]) for each in find_references(text, NAMES)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<x-200>, <x-2000>", [("x-200", "<x-200>"), ("x-2000", "<x-2000>")]),
        ("embedding:x-2000 embedding:x-200", [("x-2000", "embedding:x-2000"), ("x-200", "embedding:x-200")]),
        ("embedding:x-200, b", [("x-200", "embedding:x-200")]),
        ("(embedding:x-200:1.2)", [("x-200", "embedding:x-200")]),
        ("embedding:x-200. End", [("x-200", "embedding:x-200")]),
        ("embedding:bad.v2 embedding:bad.", [("bad.v2", "embedding:bad.v2"), ("bad", "embedding:bad")]),
        ("embedding:bad.pt,", [("bad", "embedding:bad.pt")]),
        ("embedding:x-200.safetensors", [("x-200", "embedding:x-200.safetensors")]),
        ("<CAT TOY><cat toy>!", [("Cat Toy", "<CAT TOY>"), ("Cat Toy", "<cat toy>")]),
        ("embedding:Cat Toy's", [("Cat Toy", "embedding:Cat Toy")]),
        ("<twin> <Twin>", [("twin", "<twin>"), ("Twin", "<Twin>")]),
        ("<embedding:bad>", [("bad", "<embedding:bad>")]),
        ("embedding: x-200, embedding:\nbad", [("x-200", "embedding: x-200"), ("bad", "embedding:\nbad")]),
        ("a < b > c <3 <|endoftext|> >_< and >_< embedding: x", []),
        ("myembedding:bad", []),
    ],
)  # fmt: skip
def test_names(text, expected):
    assert found(text) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<x-20>", "nearest: x-200"),
        ("embedding:x-20001", "no embedding of that name; nearest: x-2000"),
        ("embedding:x-200-b", "no embedding of that name"),
        ("<TWIN>", "Twin and twin differ in case alone"),
        ("a <lora:detail:0.8>", "--lora"),
        ("a <hypernet:x:1>", "hypernetworks are not supported"),
    ],
)
def test_unknown_names_stop(text, says):
    with pytest.raises(InputError, match=says.replace(".", r"\.")):
        find_references(text, NAMES)


def test_without_embeddings_the_flags_are_named():
    with pytest.raises(InputError, match="--embedding FILE"):
        find_references("<toy>", [])


def test_names_in_angle_brackets_are_found_by_their_name():
    (reference,) = find_references("a <cat-toy>", ["<cat-toy>"])
    assert reference.name == "<cat-toy>"


def test_bare_names():
    text = "a CAT toy with x-2000, bad\\.v2 (red:1.1)"
    assert find_bare_names(text, [*NAMES, "red", "2000", "e"]) == ("x-2000", "Cat Toy", "bad.v2", "red")

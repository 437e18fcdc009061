"""Prompts in another tool's syntax: what they say there, and how near they come."""

import re

import pytest

import lab
from lab.condition.config import TextOptions
from lab.condition.translate import Translator
from tests.condition.samples import embedding_for


@pytest.fixture
def translate(sd1):
    """A prompt of one dialect in another."""

    def run(prompt, dialect="a1111", to="comfy", bundle=sd1, embeddings=()):
        return Translator(bundle, embeddings, TextOptions(dialect=dialect), to, 20).translate(prompt)

    return run


@pytest.mark.parametrize(
    ("dialect", "prompt", "to", "text"),
    [
        ("comfy", "(a:1.2) [red] (cat)", "compel", "(a)1.2 [red] (cat)1.1"),
        ("compel", "(a red)1.2 cat++", "comfy", "(a red:1.2) (cat:1.21)"),
        ("a1111", r"a \(small\) cat", "comfy", r"a \(small\) cat"),
        ("a1111", "a [(cat:0.99)]", "a1111", "a (cat:0.9)"),
        ("a1111", "a (red:1.2), BREAK a dog", "a1111", "a (red:1.2), BREAK a dog"),
        ("comfy", "a [cat]", "a1111", r"a \[cat\]"),
        ("plain", "a (small) cat", "compel", r"a \(small\) cat"),
    ],
)
def test_what_can_be_said_exactly_is(translate, dialect, prompt, to, text):
    found = translate(prompt, dialect, to)
    assert found.text == text and found.residual < 1e-3 and not found.notes


def test_weights_are_those_that_come_nearest(translate, emoji):
    """Neither a little more nor a little less comes nearer, and it is nearer than the weights as they were."""
    target = lab.encode(emoji, "a (red:1.4) cat").embeds

    def off(weight):
        return float((lab.encode(emoji, f"a (red:{weight:g}) cat", dialect="comfy").embeds - target).norm())

    found = translate("a (red:1.4) cat", bundle=emoji)
    weight = float(found.text.removeprefix("a (red:").removesuffix(") cat"))
    assert found.residual < found.carried
    assert off(weight) <= min(off(weight - 0.02), off(weight + 0.02), off(1.4))
    effect = (target - lab.encode(emoji, "").embeds).norm()
    assert found.residual == pytest.approx(off(weight) / float(effect), rel=1e-3)


@pytest.mark.parametrize(
    ("dialect", "prompt", "to", "text"),
    [
        ("a1111", "a cat, (<toy>:1.3)", "comfy", "a cat, (embedding:toy:1.3)"),
        ("comfy", "a cat, embedding:toy, hat", "a1111", "a cat, toy, hat"),
        ("a1111", "<toy>red", "compel", "<toy> red"),
    ],
)
def test_embeddings_have_the_other_tools_names(translate, sd1, dialect, prompt, to, text):
    found = translate(prompt, dialect, to, embeddings=[embedding_for(sd1)])
    assert re.sub(r":[\d.]+\)", ":1.3)", found.text) == text


@pytest.mark.parametrize(
    ("dialect", "prompt", "to", "text", "said"),
    [
        ("a1111", "a cat AND a dog", "comfy", "a cat", "comfy has no AND"),
        ("a1111", "a cat :1.4", "comfy", "a cat", "multiplies guidance by 1.4"),
        ("a1111", "[red:blue:0.5] cat", "compel", "red cat", "changes over the steps"),
        ("a1111", "a cat BREAK a dog", "compel", "a cat a dog", "compel has no BREAK"),
        ("compel", '("a cat", "a dog").blend(0.3, 0.7)', "a1111", "a dog", "a blend"),
    ],
)
def test_what_cannot_be_said_is_told(translate, dialect, prompt, to, text, said):
    found = translate(prompt, dialect, to)
    assert found.text == text and any(said in note for note in found.notes)


def test_another_pooled_text_is_told(translate, sdxl):
    found = translate("a (red:1.2) cat", "comfy", "compel", sdxl)
    assert any("pools another text" in note for note in found.notes)


def test_an_empty_prompt_is_an_empty_prompt(translate):
    found = translate("")
    assert (found.text, found.residual, found.notes) == ("", 0, ())

"""One entry in the table is a dialect, wherever dialects are read."""

from collections.abc import Iterator

import pytest
import torch

import lab
from lab.comparing.experiment import Experiment
from lab.condition.config import TextOptions
from lab.condition.weighting import WEIGHTINGS
from lab.embeddings.embedding import Embedding
from lab.prompt.chunk_rules import back_to_comma
from lab.prompt.dialects import DIALECTS, Dialect
from lab.prompt.parse import parse, resolve
from lab.prompt.syntax import Reading, SegmentBuilder
from lab.sample.config import config_from_record
from tests.condition.samples import close, embedding_for


def read_stars(text: str) -> Reading:
    """`*word*` weighs 1.5."""
    builder = SegmentBuilder(text)
    start = 0
    for number, piece in enumerate(text.split("*")):
        builder.add(start, start + len(piece), 1.5 if number % 2 else 1.0)
        start += len(piece) + 1
    return Reading.of(builder.finish())


@pytest.fixture
def stars(monkeypatch) -> Iterator[Dialect]:
    dialect = Dialect("stars", read_stars, "comfy", split=back_to_comma, words=("STOP",), emphasis="*{text}*")
    monkeypatch.setitem(DIALECTS, "stars", dialect)
    return dialect


def test_it_parses_and_encodes(sd1, stars):
    toy = embedding_for(sd1)
    made = lab.encode(sd1, "a *red <toy>* cat", embeddings=toy, dialect="stars")
    same = lab.encode(sd1, "a (red <toy>:1.5) cat", embeddings=toy, dialect="comfy")
    assert close(made.embeds, same.embeds)
    assert [(use.name, use.weight) for use in made.applied] == [("toy", 1.5)]
    assert TextOptions(dialect="stars").weighting_used == "comfy"


def test_its_words_are_noted_elsewhere_and_others_words_in_it(stars):
    def notes(text, dialect):
        (only,) = resolve(parse(text, dialect), 1)
        return only.variants[0].reading.notes

    assert notes("a STOP", "plain") == ("STOP is a plain word in the plain dialect; in stars it is syntax",)
    assert "in a1111 it is syntax" in notes("a STOP AND b", "stars")[0] and not notes("a STOP", "stars")


def test_it_is_recorded_and_made_again(sd1, stars):
    settings = {"prompt": "a *red* apple", "seeds": "1", "steps": 1, "dialect": "stars"}
    (made,) = lab.generate(sd1, **settings)
    assert (made.record["dialect"], made.record["weighting"]) == ("stars", "comfy")
    again = config_from_record(made.record)
    assert again.dialect == "stars" and again.weighting_used == "comfy"


def test_a_comparison_writes_weights_in_it(stars):
    toy = Embedding("toy", {"clip": torch.ones(1, 32)}, kind="concept")
    config = lab.CompareConfig(
        prompts=["a cat"],
        axes={"dialect": ["comfy", "stars"], "embedding": ["toy"], "embedding_weight": [1.5]},
    )
    cells = Experiment(config, [toy]).cells
    assert {cell.options.dialect: cell.prompt for cell in cells} == {
        "comfy": "a cat, (<toy>:1.5)",
        "stars": "a cat, *<toy>*",
    }


def test_names_are_checked_against_the_table_as_it_is(sd1, stars):
    with pytest.raises(lab.InputError, match="unknown dialect 'stasr'; nearest: stars"):
        lab.encode(sd1, "a", dialect="stasr")
    with pytest.raises(lab.InputError, match="nearest: stars"):
        parse("a", "stasr")
    with pytest.raises(lab.InputError, match="unknown weighting 'comfi'; nearest: comfy"):
        lab.encode(sd1, "a", weighting="comfi")


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialects_weighting_is_one(name):
    assert DIALECTS[name].weighting in WEIGHTINGS

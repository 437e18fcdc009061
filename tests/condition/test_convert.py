"""Embeddings for another model: what words say of two encoders' spaces holds for vectors between them."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from lab.condition.convert import Converter
from lab.embeddings.embedding import Embedding
from lab.errors import InputError


def convert(embedding, source, target, **settings):
    return Converter(source, target).convert(embedding, **settings)


def with_table(bundle, place, table):
    """The bundle with another token table in one of its text encoders."""
    towers = list(bundle.towers)
    encoder = deepcopy(towers[place].encoder)
    encoder.get_input_embeddings().weight.data.copy_(table)
    towers[place] = replace(towers[place], encoder=encoder)
    return replace(bundle, towers=tuple(towers))


def table_of(bundle, place=0):
    return bundle.towers[place].encoder.get_input_embeddings().weight.detach()


@pytest.fixture(scope="module")
def turned(sdxl, sd1):
    """SDXL whose second encoder has SD 1's table through a matrix, and the matrix; the first has that table itself."""
    matrix = torch.randn(32, 64, generator=torch.Generator().manual_seed(1)) / 4
    return with_table(with_table(sdxl, 1, table_of(sd1) @ matrix + 0.01), 0, table_of(sd1)), matrix


@pytest.fixture
def toy():
    rows = 0.1 * torch.randn(3, 32, generator=torch.Generator().manual_seed(2))
    return Embedding("toy", {"clip": rows}, kind="negative")


def test_one_encoder_is_taken_as_it_is_and_the_other_learned_from_words(sd1, turned, toy):
    target, matrix = turned
    found = convert(toy, sd1, target)
    assert found.taken == ("clip_l",)
    assert torch.equal(found.embedding.vectors["clip_l"], toy.vectors["clip"])
    expected = toy.vectors["clip"] @ matrix + 0.01
    torch.testing.assert_close(found.embedding.vectors["clip_g"], expected, rtol=0.02, atol=0.005)
    assert found.embedding.kind == "negative" and found.embedding.name == "toy"
    assert found.losses["ridge"].vectors < 0.01 and found.losses[found.how].effect < 0.01
    assert found.losses["nearest token"].vectors > 0.5 and found.losses["nearest token"].effect > 0.5
    said = found.embedding.provenance.metadata
    assert said["lab.converted_from"] == toy.provenance.sha256
    assert said["lab.converted_from_model"] == f"{sd1.source} {sd1.short_hash}"
    assert said["lab.converted_how"] == found.how and float(said["lab.converted_loss"]) < 0.01


def test_back_again_both_encoders_count(sd1, turned, toy):
    source, _ = turned
    there = convert(toy, sd1, source).embedding
    back = convert(there, source, with_table(sd1, 0, 2 * table_of(sd1).flip(1)))
    torch.testing.assert_close(
        back.embedding.vectors["clip"], 2 * toy.vectors["clip"].flip(1), rtol=0.02, atol=0.005
    )
    assert not back.taken


def test_a_table_in_half_precision_is_the_same_table(sd1, toy):
    found = convert(toy, sd1, with_table(sd1, 0, table_of(sd1).half().float()))
    assert found.taken == ("clip",) and found.how == "as it is" and not found.losses
    assert torch.equal(found.embedding.vectors["clip"], toy.vectors["clip"])


def test_tables_that_have_nothing_to_do_with_each_other_promise_nothing(sd1, toy):
    other = torch.randn(table_of(sd1).shape, generator=torch.Generator().manual_seed(3))
    found = convert(toy, sd1, with_table(sd1, 0, other))
    assert found.losses[found.how].vectors > 0.8


def test_vectors_are_refined_by_what_they_do_as_far_as_words_gain(sd1, sdxl, toy, monkeypatch):
    monkeypatch.setattr("lab.condition.refine.STEPS", 5)
    found = convert(toy, sd1, sdxl, refined=True)
    method, _, behind = found.how.partition(", ")
    assert found.taken == ("clip_l",) and behind == "refined"
    assert found.losses[found.how].effect < found.losses[method].effect
    assert torch.equal(found.embedding.vectors["clip_l"], toy.vectors["clip"])


def test_where_words_gain_nothing_vectors_stay(sd1, turned, toy, monkeypatch):
    monkeypatch.setattr("lab.condition.refine.STEPS", 5)
    monkeypatch.setattr("lab.condition.refine.RATE", 5.0)
    found = convert(toy, sd1, turned[0], refined=True)
    assert "refined" not in found.how and found.how in found.losses
    expected = toy.vectors["clip"] @ turned[1] + 0.01
    torch.testing.assert_close(found.embedding.vectors["clip_g"], expected, rtol=0.02, atol=0.005)


def test_what_cannot_be_converted(sd1, sd2, emoji, toy):
    with pytest.raises(InputError, match="takes 32 wide"):
        convert(Embedding("wide", {"clip_l": torch.randn(1, 768)}), sd1, sd2)
    with pytest.raises(InputError, match=r"knows \d+ tokens and emoji 4094.* of one vocabulary"):
        convert(toy, sd1, emoji)
    with pytest.raises(InputError, match="no method 'rigde' to convert by; nearest: ridge"):
        convert(toy, sd1, sd2, method="rigde")
    with pytest.raises(InputError, match="acts behind the text encoder"):
        convert(replace(toy, outputs=toy.vectors), sd1, sd2)
    with pytest.raises(InputError, match="acts in the U-Net's layers"):
        convert(replace(toy, layers=toy.vectors), sd1, sd2)

"""A part of a prompt replaced by clean padding: which rows that are, and what stands there then."""

import pytest
import torch

import lab
from lab.condition.embeds_file import write_embeds
from lab.condition.prompt_parts import END, PADDING, POOLED, parts_of, rows_of
from lab.embeddings.embedding import Embedding
from lab.sample.config import config_from_record

TOY = Embedding("toy", {"clip": torch.randn(2, 32, generator=torch.Generator().manual_seed(0))})


def test_every_row_but_the_start_belongs_to_one_part(sd1):
    whole = lab.encode(sd1, "a red cat, <toy> on a cat", embeddings=[TOY]).first
    parts = parts_of(whole)
    assert parts == ["a", "red", "cat", "on", "<toy>:1", "<toy>:2", END, PADDING]
    context = sd1.context_length
    rows = [row for part in [*parts, ","] for row in rows_of(whole, part, context)]
    assert sorted(rows) == list(range(1, context))


def test_clean_padding_stands_in_its_place_and_nothing_else_changes(sd1):
    whole, empty = lab.encode(sd1, "a red cat"), lab.encode(sd1, "")
    for part in parts_of(whole.first):
        rest = lab.encode(sd1, "a red cat", knock_out=part)
        rows = rows_of(whole.first, part, sd1.context_length)
        kept = [row for row in range(len(whole.embeds)) if row not in rows]
        assert torch.equal(rest.embeds[rows], empty.embeds[rows]), part
        assert torch.equal(rest.embeds[kept], whole.embeds[kept]), part


def test_in_a_second_chunk_the_row_of_its_own_place(sd1):
    text = " ".join(["a red cat on white"] * (sd1.context_length // 4))
    whole, empty = lab.encode(sd1, text), lab.encode(sd1, "")
    rows = rows_of(whole.first, END, sd1.context_length)
    assert len(rows) == len(whole.embeds) // sd1.context_length > 1
    rest = lab.encode(sd1, text, knock_out=END)
    assert torch.equal(rest.embeds[rows], empty.embeds[[row % sd1.context_length for row in rows]])


def test_the_pooled_text_of_sdxl(sdxl, sd1):
    whole, empty = lab.encode(sdxl, "a red cat"), lab.encode(sdxl, "")
    rest = lab.encode(sdxl, "a red cat", knock_out=POOLED)
    assert torch.equal(rest.pooled, empty.pooled) and torch.equal(rest.embeds, whole.embeds)
    with pytest.raises(lab.InputError, match=r"'\[pooled\]' is not in the prompt"):
        lab.encode(sd1, "a red cat", knock_out=POOLED)


def test_what_is_not_there_is_refused_with_the_nearest(sd1):
    with pytest.raises(
        lab.InputError, match="knock_out: 'redd' is not in the prompt 'a red cat'; nearest: red"
    ):
        lab.encode(sd1, "a red cat", knock_out="redd")


def test_an_image_says_what_was_knocked_out_and_is_made_again(sd1):
    whole = lab.generate(sd1, prompt="a red cat", seeds=3, steps=2)[0]
    without = lab.generate(sd1, prompt="a red cat", seeds=3, steps=2, knock_out="cat")[0]
    assert not torch.equal(whole.latents, without.latents) and without.record["knock_out"] == "cat"
    again = config_from_record(without.record)
    kept = {name: again.given()[name] for name in ("prompt", "seeds", "steps", "knock_out")}
    assert torch.equal(lab.generate(sd1, **kept)[0].latents, without.latents)


def test_prompt_embeddings_from_a_file_lose_it_too(sd1, tmp_path):
    write_embeds(tmp_path / "cat.safetensors", lab.encode(sd1, "a red cat"), {})
    made = {
        name: lab.generate(sd1, **given, seeds=3, steps=2, knock_out="cat")[0].latents
        for name, given in (
            ("text", {"prompt": "a red cat"}),
            ("file", {"embeds": tmp_path / "cat.safetensors"}),
        )
    }
    assert torch.equal(made["text"], made["file"])

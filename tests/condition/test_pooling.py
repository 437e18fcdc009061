"""Pooling against CLIP's own, and against the rows that it says it takes."""

import pytest
import torch

import lab
from lab.condition.pooling import pool


def test_end_token_is_what_clip_pools(sd1):
    tower = sd1.towers[0]
    text = "a red apple on the white background"
    tokens = tower.tokenizer(text, padding="max_length", return_tensors="pt")
    with torch.no_grad():
        expected = tower.encoder(**tokens).pooler_output[0]
    encoding = lab.encode(sd1, text, dialect="plain").parts[0].entries[0][1]
    torch.testing.assert_close(pool(encoding, "eos", 77), expected)


def test_mean_and_first_are_of_the_words_alone(sd1):
    cond = lab.encode(sd1, "a red apple", dialect="plain")
    encoding = cond.parts[0].entries[0][1]
    torch.testing.assert_close(pool(encoding, "mean", 77), cond.embeds[1:4].mean(dim=0))
    torch.testing.assert_close(pool(encoding, "first", 77), cond.embeds[1])


@pytest.mark.parametrize("how", ["eos", "mean", "first"])
def test_no_words_at_all(sd1, how):
    encoding = lab.encode(sd1, "").parts[0].entries[0][1]
    assert torch.equal(pool(encoding, how, 77), encoding.embeds[1])

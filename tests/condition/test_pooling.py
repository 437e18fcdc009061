"""One vector a prompt."""

import pytest
import torch

from lab.condition.conditioning import pool_vector
from lab.condition.encode import encode


def vector(bundle, prompt, how):
    return pool_vector(encode(bundle, prompt).parts[0].entries[0][1], how, 77)


def test_rows_of_the_end_token_the_words_and_the_first_word(sd1):
    rows = encode(sd1, "the red apple").embeds
    assert torch.equal(vector(sd1, "the red apple", "eos"), rows[4])
    assert torch.allclose(vector(sd1, "the red apple", "mean"), rows[1:4].mean(dim=0))
    assert torch.equal(vector(sd1, "the red apple", "first"), rows[1])


def test_the_end_token_of_the_first_chunk_counts(sd1):
    made = encode(sd1, "the red apple BREAK cat")
    assert torch.equal(vector(sd1, "the red apple BREAK cat", "eos"), made.embeds[4])
    assert torch.allclose(
        vector(sd1, "the red apple BREAK cat", "mean"), made.embeds[[1, 2, 3, 78]].mean(dim=0)
    )


@pytest.mark.parametrize("how", ["eos", "mean", "first"])
def test_an_empty_prompt_has_its_end_token(sd1, how):
    assert torch.equal(vector(sd1, "", how), encode(sd1, "").embeds[1])

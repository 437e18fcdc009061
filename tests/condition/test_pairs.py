"""A prompt with its negative prompt: padded alike, and no other pair has a say."""

import torch

from lab.condition.config import TextOptions
from lab.condition.encode import encode, encode_pairs
from tests.condition.samples import close

LONG = "cat, " * 80


def test_both_sides_are_padded_with_the_empty_text(sd1, sdxl):
    for bundle in (sd1, sdxl):
        short, long, empty = (encode(bundle, text).embeds for text in ("apple", LONG, ""))
        (plain, _), (first, second) = encode_pairs(
            bundle, [("apple", "blurry"), ("apple", LONG)], (), TextOptions(), 4
        )
        assert close(plain.embeds, short)  # the neighbour's length changes nothing
        assert close(first.embeds, torch.cat([short, empty, empty])) and close(second.embeds, long)


def test_every_part_and_step_of_a_pair_has_one_length(sd1):
    prompt = f"a [cat:{LONG}:2] AND dog"
    ((first, second),) = encode_pairs(sd1, [(prompt, "[a|b]")], (), TextOptions(), 4)
    lengths = {
        len(entry.embeds) for side in (first, second) for part in side.parts for _, entry in part.entries
    }
    assert lengths == {3 * 77}


def test_a_negative_that_is_not_given_is_zeros_on_sdxl_alone(sd1, sdxl):
    ((_, negative),) = encode_pairs(sdxl, [("cat", None)], (), TextOptions(), 4)
    assert not negative.embeds.any() and not negative.pooled.any()
    ((_, negative),) = encode_pairs(sdxl, [("cat", "")], (), TextOptions(), 4)
    assert close(negative.embeds, encode(sdxl, "").embeds) and close(negative.pooled, encode(sdxl, "").pooled)
    ((_, negative),) = encode_pairs(sd1, [("cat", None)], (), TextOptions(), 4)
    assert close(negative.embeds, encode(sd1, "").embeds)

"""A prompt with its negative prompt: each as long as its own text, and no other text has a say."""

import torch

from lab.condition.config import TextOptions
from lab.condition.encode import encode
from lab.sample.plan import encode_pairs
from tests.condition.samples import close

LONG = "cat, " * 80


def test_neither_side_is_padded_to_the_other(sd1, sdxl):
    for bundle in (sd1, sdxl):
        short, long = (encode(bundle, text).embeds for text in ("apple", LONG))
        (plain, _), (first, second) = encode_pairs(
            bundle, [("apple", "blurry"), ("apple", LONG)], (), TextOptions(), 4
        )
        assert close(plain.embeds, short) and close(first.embeds, short) and close(second.embeds, long)


def test_what_a_schedule_switches_between_has_one_length(sd1):
    """As in A1111's `FrozenCLIPEmbedderWithCustomWordsBase.forward`, which takes all texts of a schedule at once."""
    long, short, empty = (encode(sd1, text).embeds for text in (f"a {LONG}", "a cat", ""))
    (part,) = encode(sd1, f"a [cat:{LONG}:2]", steps=4).parts
    (_, first), (_, second) = part.entries
    assert close(first.embeds, torch.cat([short, empty, empty])) and close(second.embeds, long)


def test_what_and_joins_has_one_length(sd1):
    """As in A1111's `reconstruct_multicond_batch`, which repeats the last row."""
    made = encode(sd1, f"{LONG} AND a dog")
    long, short = (part.entries[0][1].embeds for part in made.parts)
    alone = encode(sd1, "a dog").embeds
    assert len(long) == len(short) == 3 * 77
    assert close(short, torch.cat([alone, alone[-1:].expand(2 * 77, -1)]))

"""Rewards: weighted sums in which more is better."""

import pytest
import torch

from lab.errors import InputError
from lab.score.config import ScoreOptions
from lab.score.metrics import METRICS, Metric
from lab.score.reward import Reward, read_weights
from lab.score.tools import Tools, open_tools
from tests.paths import REPOSITORY


def test_weights_are_numbers_behind_names():
    assert read_weights(["degraded", "clip_text=0.5"]) == {"degraded": 1.0, "clip_text": 0.5}


@pytest.mark.parametrize("text", ["degraded=x", "degraded=0", "degraded=-1", "degraded=inf", "degraded=nan"])
def test_other_weights_are_refused(text):
    with pytest.raises(InputError, match="NAME=WEIGHT"):
        read_weights([text])


def test_a_sum_of_what_is_better(clip, pixels):
    tools = Tools(clip=clip)
    reward = Reward({"clip_text": 2.0}, tools)
    texts = ["a red apple"] * 4
    expected = 2 * (clip.images(pixels) * clip.texts(texts)).sum(dim=-1)
    torch.testing.assert_close(reward(reward.batch(pixels, texts)), expected)


def test_a_probability_counts_by_its_logarithm_and_has_a_gradient(monkeypatch, pixels):
    def probability(batch):
        return batch.pixels.mean(dim=(1, 2, 3))

    bad = Metric("bad", "probability", 0, 1, -1, "none", probability)
    monkeypatch.setitem(METRICS, "bad", bad)
    pixels.requires_grad_(True)
    reward = Reward({"bad": 3.0}, Tools(), differentiable=True)
    found = reward(reward.batch(pixels, [""] * 4))
    torch.testing.assert_close(found, 3 * (1 - pixels.mean(dim=(1, 2, 3))).log())
    found.sum().backward()
    assert (pixels.grad < 0).all()
    sure = reward(reward.batch(torch.ones(1, 3, 4, 4), [""]))
    assert torch.isfinite(sure).all(), "a classifier that is sure of the worst"


@pytest.mark.parametrize("name", ["diversity", "cmmd", "sharpness", "clip_baseline"])
def test_what_rates_no_single_image_is_no_reward(name, clip):
    with pytest.raises(InputError, match="single image"):
        Reward({name: 1.0}, Tools(clip=clip))


def test_the_classifier_may_be_another_than_the_models(sd1, emoji, pixels):
    folder = REPOSITORY / "lab" / "assets" / "emoji" / "quality"
    given = open_tools(sd1, ScoreOptions(quality=folder)).quality
    own = open_tools(emoji, ScoreOptions()).quality
    assert torch.equal(given.degraded(pixels), own.degraded(pixels))
    with pytest.raises(InputError, match="quality classifier"):
        open_tools(sd1, ScoreOptions(quality=folder.parent / "unet"))

"""Guidance against the formulas of its papers."""

import math

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

import lab
from lab.sample.guidance import apply_guidance, noise_level, rescale_guidance


def predictions(count):
    return torch.randn((count, 3, 4, 6, 6), generator=torch.Generator().manual_seed(0))


def test_one_part_is_classifier_free_guidance():
    u, c = predictions(2)
    scale = torch.tensor([1.0, 4.5, 0.0])
    expected = u + scale.view(-1, 1, 1, 1) * (c - u)
    torch.testing.assert_close(apply_guidance(u, [c], scale[None]), expected)


def test_composition_adds_each_parts_guidance():
    u, c, d = predictions(3)
    weights = torch.tensor([[1.0, 0.5, 2.0], [0.3, -1.0, 0.0]])
    actual = apply_guidance(u, [c, d], 7 * weights)
    for image in range(3):
        expected = u[image]
        expected = expected + 7 * weights[0, image] * (c[image] - u[image])
        expected = expected + 7 * weights[1, image] * (d[image] - u[image])
        torch.testing.assert_close(actual[image], expected)


@pytest.mark.parametrize("amount", [0.0, 0.3, 1.0])
def test_rescale_is_diffusers(amount):
    guided, conditional = predictions(2)
    expected = rescale_noise_cfg(guided, conditional, guidance_rescale=amount)
    torch.testing.assert_close(rescale_guidance(guided, conditional, amount), expected)


def test_noise_level_is_sigma():
    alphas = torch.tensor([0.99, 0.5, 0.2, 0.0])
    assert noise_level(torch.tensor(1), alphas) == pytest.approx(1.0)
    assert noise_level(torch.tensor(1.5), alphas) == pytest.approx(math.sqrt(0.65 / 0.35))
    assert noise_level(torch.tensor(3), alphas) == math.inf


def calls_per_step(bundle, monkeypatch, **settings):
    rows, forward = [], bundle.unet.forward

    def counting(sample, *args, **kwargs):
        rows.append(len(sample))
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(bundle.unet, "forward", counting)
    lab.generate(
        bundle, prompt="a cat", negative_prompt="dog", steps=8, scheduler="ddim", guidance=6.0, **settings
    )
    return rows


def test_interval_leaves_the_negative_side_out(sd1, monkeypatch):
    rows = calls_per_step(sd1, monkeypatch, guidance_interval=(0.5, 5.0))
    assert rows == sorted(rows[:1]) + rows[1:] and rows[0] == 1 and rows[-1] == 1
    assert 0 < rows.count(2) < 8


def test_interval_over_all_levels_is_no_interval(sd1):
    def latents(**settings):
        return lab.generate(sd1, prompt="a cat", seeds=2, steps=4, guidance=6.0, **settings)[0].latents

    assert torch.equal(latents(guidance_interval=(0, 1e9)), latents())
    assert not torch.allclose(latents(guidance_interval=(0.5, 2.0)), latents(), atol=1e-3)


def test_empty_interval_is_one_line(sd1):
    with pytest.raises(lab.InputError, match="LOW before HIGH"):
        lab.generate(sd1, prompt="a cat", guidance_interval=(2.0, 1.0))

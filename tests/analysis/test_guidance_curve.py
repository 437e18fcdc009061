"""The guidance difference against what the guidance formula says it must be."""

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
import torch

import lab
from lab.analysis.guidance_curve import curve_svg, guidance_difference
from lab.sample.denoise import denoise
from tests.jobs import STEPS, encoding, make_job, plain


def with_guidance(job, **changes):
    return replace(job, settings=replace(job.settings, **changes))


def test_a_variant_that_changes_nothing_makes_no_difference(sdxl):
    job = make_job(sdxl)
    curve = guidance_difference(sdxl, [(job, job)])
    assert curve.difference.shape == (STEPS, 1)
    assert curve.difference.max() < 1e-5 < curve.baseline.min()


def test_a_larger_scale_differs_by_its_share_of_the_term(sd1):
    job = make_job(sd1, guidance=4.0)
    curve = guidance_difference(sd1, [(job, with_guidance(job, guidance=6.0))])
    torch.testing.assert_close(curve.difference, curve.baseline * 0.5, rtol=1e-4, atol=1e-5)


def test_another_negative_prompt_differs_by_the_formula(sd1):
    """s (c - u) - s (c - v) = s (v - u), at the baseline's own latents."""
    job = make_job(sd1, guidance=4.0)
    variant = replace(job, negative=plain(encoding(sd1, "bad", seed=9)))
    curve = guidance_difference(sd1, [(job, variant)])
    seen = []
    denoise(sd1, [job], seen.append)
    first = seen[0]
    other = []
    denoise(sd1, [variant], other.append)  # both begin from the same noise
    expected = 4.0 * (other[0].unconditional - first.unconditional)
    torch.testing.assert_close(curve.difference[0, 0], expected.pow(2).mean().sqrt(), rtol=1e-3, atol=1e-5)
    assert curve.timesteps.tolist() == [float(step.timestep) for step in seen]


def test_pairs_of_any_length_share_a_curve(sd1):
    short = make_job(sd1)
    long = replace(short, positive=plain(encoding(sd1, "a cat", 2)), negative=plain(encoding(sd1, "bad", 2)))
    pairs = [(short, long), (long, short)]
    together = guidance_difference(sd1, pairs)
    for place, pair in enumerate(pairs):
        alone = guidance_difference(sd1, [pair])
        torch.testing.assert_close(together.difference[:, place], alone.difference[:, 0])


def test_unguided_steps_have_no_term(sd1):
    job = make_job(sd1)
    curve = guidance_difference(sd1, [(with_guidance(job, guidance=1.0), job)])
    assert not curve.baseline.any() and (curve.difference > 0).all()
    assert curve.rows[0] == {
        "call": 0.0,
        "timestep": float(curve.timesteps[0]),
        "difference": pytest.approx(float(curve.difference[0, 0])),
        "baseline": 0.0,
    }


def test_sides_without_common_latents_are_refused(sd1):
    job = make_job(sd1)
    for variant in (with_guidance(job, scheduler="euler"), replace(job, seed=2)):
        with pytest.raises(lab.InputError, match="share no latents"):
            guidance_difference(sd1, [(job, variant)])
    with pytest.raises(lab.InputError, match="no pairs"):
        guidance_difference(sd1, [])


def test_the_drawing_is_an_svg_element_with_every_name(sd1):
    job = make_job(sd1)
    curve = guidance_difference(sd1, [(job, with_guidance(job, guidance=9.0))])
    text = curve_svg({"costs $5 & more": curve, "<easy>": curve})
    assert curve_svg({"costs $5 & more": curve, "<easy>": curve}) == text
    written = [element.text for element in ElementTree.fromstring(text).iter() if element.text]
    assert {"costs $5 & more", "<easy>", "the baseline's term"} <= set(written)
    assert "currentColor" in text and "#010203" not in text

"""For a plain prompt and the same seeds, the lab's latents and images equal those of diffusers' own pipelines."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image

import lab
from lab.models.schedulers import SCHEDULERS
from lab.sample.pixels import encode_image

PROMPT, NEGATIVE = "a red apple on a white background", "blurry dog"
TOLERANCE = 1e-4
"""Of the latents' standard deviation, or of 1 if that is larger; float32 sums in another order cost about 1e-6."""


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, atol=TOLERANCE * max(1, expected.std().item()), rtol=0)


def reference(bundle, scheduler, seeds, karras=False, **settings):
    """Latents (n, c, h, w) of the diffusers pipeline with the same scheduler and one generator an image."""
    pipeline = bundle.pipeline()
    kind = SCHEDULERS[scheduler]
    extra = {"use_karras_sigmas": True} if karras else {}
    pipeline.scheduler = getattr(diffusers, kind.class_name).from_config(
        dict(bundle.scheduler_config), **kind.settings, **extra
    )
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    prompts = [settings.pop("prompt", PROMPT)] * len(seeds)
    negative = settings.pop("negative_prompt", NEGATIVE)
    negatives = None if negative is None else [negative] * len(seeds)
    return pipeline(
        prompts, negative_prompt=negatives, generator=generators, output_type="latent", **settings
    ).images


def ours(bundle, scheduler, seeds, **settings):
    settings = {"prompt": PROMPT, "negative_prompt": NEGATIVE} | settings
    results = lab.generate(bundle, seeds=seeds, scheduler=scheduler, **settings)
    return torch.stack([result.latents for result in results])


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_on_every_family(family, scheduler, request):
    bundle = request.getfixturevalue(family)
    expected = reference(bundle, scheduler, [3, 4], num_inference_steps=5, guidance_scale=6.0)
    actual = ours(bundle, scheduler, [3, 4], steps=5, guidance=6.0)
    assert_same(actual, expected)


@pytest.mark.parametrize("scheduler", [name for name, kind in SCHEDULERS.items() if kind.karras])
def test_karras_sigmas(sd1, scheduler):
    expected = reference(sd1, scheduler, [3], karras=True, num_inference_steps=5, guidance_scale=6.0)
    actual = ours(sd1, scheduler, [3], karras=True, steps=5, guidance=6.0)
    assert_same(actual, expected)


@pytest.mark.parametrize("scheduler", [name for name, kind in SCHEDULERS.items() if kind.zero_snr])
def test_zero_terminal_snr_with_rescale(emoji, scheduler):
    settings = {"num_inference_steps": 4, "guidance_scale": 5.0, "guidance_rescale": 0.5}
    size = {"width": emoji.defaults.width, "height": emoji.defaults.height}
    expected = reference(emoji, scheduler, [3], **settings, **size)
    actual = ours(emoji, scheduler, [3], steps=4, guidance=5.0, guidance_rescale=0.5)
    assert_same(actual, expected)


@pytest.mark.parametrize("negative", [None, "", NEGATIVE])
def test_sdxl_negative_prompt_not_given_is_zeros_and_empty_is_encoded(sdxl, negative):
    expected = reference(
        sdxl, "euler", [5], num_inference_steps=3, guidance_scale=6.0, negative_prompt=negative
    )
    actual = ours(sdxl, "euler", [5], steps=3, guidance=6.0, negative_prompt=negative, dialect="plain")
    assert_same(actual, expected)


def test_sdxl_none_and_empty_negative_differ(sdxl):
    none, empty = (
        ours(sdxl, "euler", [5], steps=3, negative_prompt=negative, dialect="plain")
        for negative in (None, "")
    )
    assert not torch.allclose(none, empty, atol=1e-3)


def test_sdxl_size_and_crop_conditioning(sdxl):
    conditioning = {"original_size": (40, 56), "crops_coords_top_left": (3, 5)}
    expected = reference(sdxl, "euler", [5], num_inference_steps=3, guidance_scale=6.0, **conditioning)
    sizes = {"original_height": 40, "original_width": 56, "crop_top": 3, "crop_left": 5}
    actual = ours(sdxl, "euler", [5], steps=3, guidance=6.0, **sizes)
    assert_same(actual, expected)
    assert not torch.allclose(actual, ours(sdxl, "euler", [5], steps=3, guidance=6.0), atol=1e-3)


def test_no_guidance_leaves_the_negative_prompt_out(sd1):
    expected = reference(sd1, "ddim", [1], num_inference_steps=3, guidance_scale=1.0)
    actual = ours(sd1, "ddim", [1], steps=3, guidance=1.0)
    assert_same(actual, expected)


def test_pixels_are_the_pipelines(sd1):
    pipeline = sd1.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    generator = [torch.Generator("cpu").manual_seed(9)]
    expected = pipeline([PROMPT], generator=generator, num_inference_steps=4, guidance_scale=7.0).images[0]
    (result,) = lab.generate(sd1, prompt=PROMPT, seeds=9, steps=4, guidance=7.0, scheduler="pndm")
    difference = np.abs(np.asarray(result.image, dtype=int) - np.asarray(expected, dtype=int))
    assert difference.max() <= 1


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_image_to_image(sd1, scheduler, tmp_path):
    image = Image.new("RGB", (sd1.defaults.width, sd1.defaults.height), "orange")
    image.save(tmp_path / "start.png")
    pipeline = StableDiffusionImg2ImgPipeline.from_pipe(sd1.pipeline())
    kind = SCHEDULERS[scheduler]
    pipeline.scheduler = getattr(diffusers, kind.class_name).from_config(
        dict(sd1.scheduler_config), **kind.settings
    )
    pipeline.set_progress_bar_config(disable=True)
    # Given latents, the pipeline draws nothing but the noise, as the lab does for every image.
    expected = pipeline(
        PROMPT,
        image=encode_image(sd1, image),
        strength=0.6,
        num_inference_steps=10,
        guidance_scale=6.0,
        generator=torch.Generator("cpu").manual_seed(3),
        output_type="latent",
    ).images
    settings = {"init_image": tmp_path / "start.png", "strength": 0.6, "negative_prompt": None}
    assert_same(ours(sd1, scheduler, [3], steps=10, guidance=6.0, **settings), expected)

"""Schedules, alternation and AND in the loop, against loops of diffusers' own parts that spell them out."""

import pytest
import torch
from PIL import Image

import lab
from lab.models.schedulers import make_scheduler

STEPS, GUIDANCE, SEED = 6, 5.0, 3


def ours(bundle, prompt, negative="", **settings):
    settings = {"steps": STEPS, "guidance": GUIDANCE, "scheduler": "ddim"} | settings
    (result,) = lab.generate(bundle, prompt=prompt, negative_prompt=negative, seeds=SEED, **settings)
    return result.latents


def spelt_out(bundle, prediction, scheduler="ddim"):
    """A scheduler's loop with `prediction(noisy, timestep, call)`."""
    scheduler = make_scheduler(scheduler, False, bundle.scheduler_config, STEPS)
    shape = (1, 4, bundle.defaults.height // bundle.vae_scale, bundle.defaults.width // bundle.vae_scale)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(SEED)) * scheduler.init_noise_sigma
    with torch.no_grad():
        for call, timestep in enumerate(scheduler.timesteps):
            guided = prediction(scheduler.scale_model_input(latents, timestep), timestep, call)
            latents = scheduler.step(guided, timestep, latents).prev_sample
    return latents[0]


def unet(bundle, noisy, timestep, text):
    embeds = lab.encode(bundle, text, dialect="plain").embeds[None]
    return bundle.unet(noisy, timestep, encoder_hidden_states=embeds).sample


def guided_by(positive_at, negative_at=lambda step: ""):
    def prediction(bundle):
        def predict(noisy, timestep, step):
            u = unet(bundle, noisy, timestep, negative_at(step))
            return u + GUIDANCE * (unet(bundle, noisy, timestep, positive_at(step)) - u)

        return predict

    return prediction


# What A1111's reconstruct_cond_batch takes at each call: an entry that ends at n is in force at steps 0 to n.
CASES = {
    "a [cat:dog:2]": guided_by(lambda step: "a cat" if step <= 2 else "a dog"),
    "a [cat:dog:0.5]": guided_by(lambda step: "a cat" if step <= 3 else "a dog"),
    "a [cat|dog|apple]": guided_by(lambda step: ["a cat", "a dog", "a apple"][max(step - 1, 0) % 3]),
}


@pytest.mark.parametrize("prompt", CASES)
def test_prompts_change_by_step(sd1, prompt):
    expected = spelt_out(sd1, CASES[prompt](sd1))
    torch.testing.assert_close(ours(sd1, prompt), expected, atol=1e-4, rtol=0)


def test_sides_of_unequal_length_act_as_in_calls_of_their_own(sd1):
    prompt, negative = "a cat, " * 60, "dog, " * 40
    assert [len(lab.encode(sd1, text).embeds) // 77 for text in (prompt, negative)] == [3, 2]
    predict = guided_by(lambda step: prompt, lambda step: negative)
    torch.testing.assert_close(ours(sd1, prompt, negative), spelt_out(sd1, predict(sd1)), atol=1e-4, rtol=0)


def test_negative_prompts_change_too(sd1):
    predict = guided_by(lambda step: "a cat", lambda step: "dog" if step <= 2 else "apple")
    torch.testing.assert_close(
        ours(sd1, "a cat", "[dog:apple:2]"), spelt_out(sd1, predict(sd1)), atol=1e-4, rtol=0
    )


def test_and_composes_guidance(sd1):
    def predict(noisy, timestep, step):
        u, cat, dog = (unet(sd1, noisy, timestep, text) for text in ("", "a cat", "a dog"))
        return u + GUIDANCE * (cat - u) + 0.6 * GUIDANCE * (dog - u)

    torch.testing.assert_close(ours(sd1, "a cat AND a dog :0.6"), spelt_out(sd1, predict), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("dialect", "negative", "zeros"),
    [("a1111", "", True), ("a1111", "#none", True), ("a1111", "[:blurry:0.5]", False), ("comfy", "", False)],
)
def test_an_empty_negative_prompt_on_sdxl(sdxl, dialect, negative, zeros):
    """A1111 (`sd_models_xl.get_learned_conditioning`) zeros a negative with no text at any step; ComfyUI encodes it."""
    settings = {"prompt": "a cat", "seeds": SEED, "steps": 2, "guidance": GUIDANCE, "scheduler": "ddim"}
    (given,) = lab.generate(sdxl, negative_prompt=negative, dialect=dialect, **settings)
    (none,) = lab.generate(sdxl, dialect=dialect, **settings)
    assert torch.equal(given.latents, none.latents) == zeros


@pytest.mark.parametrize("negative", ["blurry AND ugly", "worst quality, lowres:1.4", "bad, ratio 3:2"])
def test_and_and_a_last_weight_are_text_in_a_negative_prompt(sd1, negative):
    """A1111 reads negative prompts with `get_learned_conditioning`, which neither splits nor weighs."""
    predict = guided_by(lambda step: "a cat", lambda step: negative)
    torch.testing.assert_close(ours(sd1, "a cat", negative), spelt_out(sd1, predict(sd1)), atol=1e-4, rtol=0)


BY_CALLS = {
    ("heun", "a [cat:dog:4]"): lambda call: "a cat" if call <= 4 else "a dog",
    ("heun", "a [cat:dog:0.5]"): lambda call: "a cat" if call <= STEPS else "a dog",
    ("heun", "a [cat|dog]"): lambda call: ["a cat", "a dog"][max(call - 1, 0) % 2],
    ("pndm", "a [cat:dog:4]"): lambda call: "a cat" if call <= 4 else "a dog",
}


@pytest.mark.parametrize("scheduler, prompt", BY_CALLS)
def test_schedules_count_calls_of_the_unet(sd1, scheduler, prompt):
    """A1111's denoiser counts its calls, and takes twice the steps for samplers of second order (`total_steps`)."""
    predict = guided_by(BY_CALLS[scheduler, prompt])
    expected = spelt_out(sd1, predict(sd1), scheduler)
    torch.testing.assert_close(ours(sd1, prompt, scheduler=scheduler), expected, atol=2e-4, rtol=0)


def test_image_to_image_counts_from_its_first_call(sd1, tmp_path):
    """A1111's denoiser begins at 0 whatever steps image-to-image leaves out."""
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")

    def latents(prompt):
        return ours(sd1, prompt, init_image=tmp_path / "red.png", strength=0.5)

    torch.testing.assert_close(latents("a [cat:dog:2]"), latents("a cat"), atol=1e-4, rtol=0)
    assert not torch.allclose(latents("a [cat:dog:1]"), latents("a cat"), atol=1e-3)

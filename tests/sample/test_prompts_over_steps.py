"""Schedules, alternation and AND in the loop, against loops of diffusers' own parts that spell them out."""

import pytest
import torch

import lab

STEPS, GUIDANCE, SEED = 6, 5.0, 3


def ours(bundle, prompt, negative="", **settings):
    settings = {"steps": STEPS, "guidance": GUIDANCE, "scheduler": "ddim"} | settings
    (result,) = lab.generate(bundle, prompt=prompt, negative_prompt=negative, seeds=SEED, **settings)
    return result.latents


def spelt_out(bundle, prediction):
    """DDIM with `prediction(noisy, timestep, step)`."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config(dict(bundle.scheduler_config))
    scheduler.set_timesteps(STEPS)
    shape = (1, 4, bundle.defaults.height // bundle.vae_scale, bundle.defaults.width // bundle.vae_scale)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(SEED))
    with torch.no_grad():
        for step, timestep in enumerate(scheduler.timesteps):
            guided = prediction(latents, timestep, step)
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


@pytest.mark.parametrize("negative", ["blurry AND ugly", "worst quality, lowres:1.4", "bad, ratio 3:2"])
def test_and_and_a_last_weight_are_text_in_a_negative_prompt(sd1, negative):
    """A1111 reads negative prompts with `get_learned_conditioning`, which neither splits nor weighs."""
    predict = guided_by(lambda step: "a cat", lambda step: negative)
    torch.testing.assert_close(ours(sd1, "a cat", negative), spelt_out(sd1, predict(sd1)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("scheduler", ["heun", "pndm"])
def test_schedulers_with_more_calls_than_steps_switch_at_the_same_step(sd1, scheduler):
    """A switch at the last step leaves all but the end as it was; one at step 0 changes everything."""

    def latents(prompt):
        return ours(sd1, prompt, scheduler=scheduler)

    never, first = latents("a [cat:dog:6]"), latents("a [cat:dog:0]")
    torch.testing.assert_close(never, latents("a cat"), atol=1e-4, rtol=0)
    torch.testing.assert_close(first, latents("a dog"), atol=1e-4, rtol=0)

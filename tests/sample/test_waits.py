"""Nothing is read back from the device between the first step and the last one."""

from dataclasses import replace

import pytest
import torch

from lab.models.schedulers import SCHEDULERS
from lab.sample.denoise import denoise_with_gradient
from lab.sample.negatives import NEGATIVE_METHODS
from tests.jobs import STEPS, encoding, make_job, out_of_sight, plain


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_no_step_looks_at_the_device(scheduler, sd1):
    bundle = out_of_sight(sd1)
    job = make_job(sd1)
    settings = replace(job.settings, scheduler=scheduler, guidance_interval=(0.1, 5.0))
    with torch.no_grad():
        latents = denoise_with_gradient(bundle, [replace(job, settings=settings)] * 2, last=0)
    assert latents.is_meta


@pytest.mark.parametrize("method", NEGATIVE_METHODS)
def test_no_negative_method_looks_at_the_device(method, sd1):
    job = make_job(sd1, negative_method=method)
    job = replace(job, empty=plain(encoding(sd1, "")))
    with torch.no_grad():
        assert denoise_with_gradient(out_of_sight(sd1), [job] * 2, last=0).is_meta


def test_sizes_go_to_the_device_once(sdxl, monkeypatch):
    """SDXL's U-Net gets one and the same tensor of sizes in every step."""
    bundle, seen = out_of_sight(sdxl), []
    forward = type(bundle.unet).forward

    def noting(*arguments, **settings):
        seen.append(settings["added_cond_kwargs"]["time_ids"])
        return forward(*arguments, **settings)

    monkeypatch.setattr(type(bundle.unet), "forward", noting)
    with torch.no_grad():
        denoise_with_gradient(bundle, [make_job(sdxl)], last=0)
    assert len(seen) == STEPS and len({each.untyped_storage()._cdata for each in seen}) == 1


@pytest.mark.parametrize("strength", [None, 0.7])
def test_prompts_may_be_on_the_device_or_not(strength, sd1):
    """As in learning by a reward: the learned negative is on the device, the prompts are not."""
    bundle = out_of_sight(sd1)
    learned = encoding(sd1, "bad")
    learned = replace(learned, embeds=learned.embeds.to(bundle.device).requires_grad_(True))
    job = make_job(sd1)
    job = replace(
        job,
        negative=plain(learned),
        settings=replace(job.settings, strength=strength),
        init_latents=None if strength is None else torch.zeros(1, 4, *_latent_size(sd1, job)),
    )
    denoise_with_gradient(bundle, [job], last=1).sum().backward()
    assert learned.embeds.grad is not None and learned.embeds.grad.is_meta


def _latent_size(bundle, job):
    return job.settings.height // bundle.vae_scale, job.settings.width // bundle.vae_scale

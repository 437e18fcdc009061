"""The one call of the U-Net gives what diffusers' own call gives, in every family and precision."""

import pytest
import torch
from diffusers import LatentConsistencyModelPipeline, UNet2DConditionModel

from lab.models.load import load
from lab.models.unet import call_unet, takes_guidance_scale


def inputs(bundle):
    generator = torch.Generator().manual_seed(0)
    side, width = bundle.unet.config.sample_size, bundle.unet.config.cross_attention_dim
    noisy = torch.randn((2, 4, side, side), generator=generator)
    return noisy, torch.tensor([998, 3]), torch.randn((2, 77, width), generator=generator)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_it_equals_diffusers_call(family, request):
    bundle = request.getfixturevalue(family)
    noisy, timesteps, embeds = inputs(bundle)
    added, conditions = [], None
    if family == "sdxl":
        pooled = torch.randn((2, bundle.towers[-1].width), generator=torch.Generator().manual_seed(1))
        added = [pooled, torch.tensor([[513, 512, 7, 0, 512, 512]] * 2)]
        conditions = {"text_embeds": pooled, "time_ids": added[1].float()}
    with torch.no_grad():
        made = call_unet(bundle.unet, noisy, timesteps, embeds, *added)
        expected = bundle.unet(noisy, timesteps, embeds, added_cond_kwargs=conditions).sample
    assert torch.equal(made, expected)


def test_no_layer_finds_out_anew_what_it_takes(sd1, monkeypatch):
    """Inspecting signatures takes a tenth of a call's time on a GPU's host; all the same layers take more arguments."""
    noisy, timesteps, embeds = inputs(sd1)
    with torch.no_grad():
        expected = call_unet(sd1.unet, noisy, timesteps, embeds)
        scaled = sd1.unet(noisy, timesteps, embeds, cross_attention_kwargs={"scale": 1.0}).sample
        monkeypatch.setattr("inspect.signature", None)
        made = call_unet(sd1.unet, noisy, timesteps, embeds)
    assert torch.equal(made, expected) and torch.equal(made, scaled)


def test_sizes_keep_their_precision_in_a_lower_one(sdxl_folder):
    bundle = load(sdxl_folder, device="cpu", dtype="bfloat16")
    pooled = torch.zeros(2, bundle.towers[-1].width)
    with torch.no_grad():
        near, far = (
            call_unet(bundle.unet, *inputs(bundle), pooled, torch.tensor([[size, 512, 0, 0, 512, 512]] * 2))
            for size in (513, 512)
        )
    assert near.dtype == torch.float32
    assert not torch.equal(near, far)  # bfloat16 would round 513 to 512


def test_gradients_reach_the_prompt_embeddings(sd1):
    noisy, timesteps, embeds = inputs(sd1)
    embeds.requires_grad_(True)
    call_unet(sd1.unet, noisy, timesteps, embeds).square().sum().backward()
    assert embeds.grad.abs().sum() > 0


def test_a_distilled_unet_takes_the_guidance_scale(sd1):
    unet = UNet2DConditionModel.from_config(sd1.unet.config, time_cond_proj_dim=8).eval()
    scale = torch.tensor([3.0, 7.0])
    embedded = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, scale - 1, 8)
    with torch.no_grad():
        made = call_unet(unet, *inputs(sd1), guidance_scale=scale)
        expected = unet(*inputs(sd1), timestep_cond=embedded).sample
    assert takes_guidance_scale(unet) and not takes_guidance_scale(sd1.unet)
    torch.testing.assert_close(made, expected)

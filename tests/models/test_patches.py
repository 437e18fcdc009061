"""Temporary changes of a model: what they do, and that they are put back even after an error."""

import pytest
import torch

from lab.models.attention import attention_recorded, text_keys_kept
from lab.models.patches import frozen
from lab.models.unet import call_unet
from lab.sample.engine import run_jobs
from tests.jobs import make_job


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_texts_are_projected_once_and_the_output_is_bit_identical(family, request, monkeypatch):
    bundle = request.getfixturevalue(family)
    unet, calls = bundle.unet, []
    layer = unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2.to_k")
    compute = type(layer).forward

    def counting(module, inputs):
        calls.append(module)
        return compute(module, inputs)

    generator = torch.Generator().manual_seed(0)
    size, width = unet.config.sample_size, unet.config.cross_attention_dim
    texts = [torch.randn((2, 77, width), generator=generator) for _ in range(2)]
    added = []
    if family == "sdxl":
        added = [torch.randn((2, bundle.towers[-1].width), generator=generator), torch.ones((2, 6))]

    def run(text, timestep):
        noisy = torch.randn((2, 4, size, size), generator=torch.Generator().manual_seed(timestep))
        return call_unet(unet, noisy, torch.tensor(timestep), text, *added)

    with torch.inference_mode():
        expected = [run(text, timestep) for text in texts for timestep in (900, 100)]
        monkeypatch.setattr(type(layer), "forward", counting)
        with text_keys_kept(unet):
            actual = [run(text, timestep) for text in texts for timestep in (900, 100)]
    assert sum(each is layer for each in calls) == 2
    assert all(torch.equal(*pair) for pair in zip(expected, actual, strict=True))


def test_kept_keys_are_put_back_even_after_an_error(sd1):
    with pytest.raises(ZeroDivisionError), text_keys_kept(sd1.unet):
        raise ZeroDivisionError
    list(run_jobs(sd1, [make_job(sd1)]))
    assert not any("forward" in module.__dict__ for module in sd1.unet.modules())


def test_the_model_is_as_before_after_an_error_in_training(sd1):
    weight = sd1.unet.conv_in.weight
    weight.requires_grad_(True)
    sd1.vae.train()
    try:
        with pytest.raises(ZeroDivisionError), frozen(sd1, gradient_checkpointing=True):
            assert not weight.requires_grad and not sd1.vae.training and sd1.unet.is_gradient_checkpointing
            raise ZeroDivisionError
        assert weight.requires_grad and sd1.vae.training and not sd1.unet.is_gradient_checkpointing
    finally:
        weight.requires_grad_(False)
        sd1.vae.eval()


def test_processors_are_put_back_after_an_error(sd1):
    processors = sd1.unet.attn_processors
    with pytest.raises(ZeroDivisionError), attention_recorded(sd1.unet):
        raise ZeroDivisionError
    assert all(sd1.unet.attn_processors[name] is each for name, each in processors.items())

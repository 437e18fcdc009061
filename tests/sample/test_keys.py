"""Keys and values of texts are computed once, and nothing else changes."""

import pytest
import torch

from lab.sample.engine import run_jobs
from lab.sample.keys import keeping_keys
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
    extra = {}
    if family == "sdxl":
        pooled = torch.randn((2, bundle.towers[-1].width), generator=generator)
        extra["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": torch.ones((2, 6))}

    def run(text, timestep):
        noisy = torch.randn((2, 4, size, size), generator=torch.Generator().manual_seed(timestep))
        return unet(noisy, timestep, encoder_hidden_states=text, **extra).sample

    with torch.inference_mode():
        expected = [run(text, timestep) for text in texts for timestep in (900, 100)]
        monkeypatch.setattr(type(layer), "forward", counting)
        with keeping_keys(unet):
            actual = [run(text, timestep) for text in texts for timestep in (900, 100)]
    assert sum(each is layer for each in calls) == 2
    assert all(torch.equal(*pair) for pair in zip(expected, actual, strict=True))


def test_layers_are_put_back_even_after_an_error(sd1):
    with pytest.raises(ZeroDivisionError), keeping_keys(sd1.unet):
        raise ZeroDivisionError
    list(run_jobs(sd1, [make_job(sd1)]))
    assert not any("forward" in module.__dict__ for module in sd1.unet.modules())

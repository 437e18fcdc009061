import pytest
import torch

import lab
from lab.errors import InputError
from lab.models.device import pick_device, pick_dtype
from lab.models.load import load


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_only_the_unet_computes_in_lower_precision_and_pipelines_still_work(family, request):
    exact = request.getfixturevalue(family)
    bundle = load(exact.root, device="cpu", dtype="bfloat16")
    assert bundle.dtype == bundle.unet.dtype == torch.bfloat16
    assert {bundle.vae.dtype, *(tower.encoder.dtype for tower in bundle.towers)} == {torch.float32}

    def picture(bundle):
        generator = torch.Generator().manual_seed(3)
        return bundle.pipeline()("a cat", num_inference_steps=3, generator=generator, output_type="np").images

    difference = abs(picture(bundle) - picture(exact)).max()
    assert 0 < difference < 0.05  # bfloat16 has 8 bits: a few hundredths of the range after three steps


@pytest.mark.parametrize("weighting", ["a1111", "comfy", "compel"])
def test_prompts_are_encoded_in_the_unets_precision_from_exact_weights(sd1, weighting):
    prompts = ["a (red:1.3) cat", "a dog [in the snow:at night:0.5]"]
    bundle = load(sd1.root, device="cpu", dtype="bfloat16")
    exact, low = (lab.encode(one, prompts, weighting=weighting) for one in (sd1, bundle))
    for first, second in zip(exact, low, strict=True):
        assert second.embeds.dtype == torch.float32
        difference = (first.embeds - second.embeds).norm() / first.embeds.norm()
        assert 0 < difference < 0.02


def test_timesteps_keep_their_precision(sd1_folder):
    unet = load(sd1_folder, device="cpu", dtype="bfloat16").unet
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    text = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(1))
    near, far = (unet(noise, torch.tensor(step), text).sample for step in (998.0, 1000.0))
    assert near.dtype == torch.float32
    assert not torch.equal(near, far)  # bfloat16 knows neither: both would round to 1000
    named = unet(sample=noise, timestep=torch.tensor(998.0), encoder_hidden_states=text, return_dict=False)[0]
    assert torch.equal(named, near)


WIDE, SMALL = {"block_out_channels": [320]}, {"block_out_channels": [64]}


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_is_half_precision_on_gpus(native, expected, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: native)
    assert pick_dtype("auto", torch.device("cuda"), SMALL) == expected
    assert pick_dtype("auto", torch.device("mps"), SMALL) == torch.float16


@pytest.mark.parametrize(
    ("flags", "unet", "expected"),
    [
        ("avx512f amx_bf16 amx_tile", WIDE, torch.bfloat16),
        ("avx512f amx_bf16 amx_tile", SMALL, torch.float32),
        ("avx512f", WIDE, torch.float32),
    ],
)
def test_auto_on_cpus_is_bfloat16_where_it_is_faster(flags, unet, expected, monkeypatch):
    monkeypatch.setattr("pathlib.Path.read_text", lambda path: f"flags : {flags}")
    assert pick_dtype("auto", torch.device("cpu"), unet) == expected
    assert pick_dtype("float16", torch.device("cpu"), unet) == torch.float16


@pytest.mark.parametrize(
    ("name", "said"),
    [("cuda:99", "not on this machine"), ("gpu", "unknown device"), ("meta", "not on this machine")],
)
def test_devices_that_are_not_there_are_refused(name, said):
    with pytest.raises(InputError, match=said):
        pick_device(name)

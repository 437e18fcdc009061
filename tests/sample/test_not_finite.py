"""What is not finite is refused where it arises, in one line: a black image is never made."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lab.errors import InputError
from lab.models.load import load
from lab.sample.engine import run_jobs
from tests.jobs import STEPS, make_job


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("unet/diffusion_pytorch_model.safetensors", "U-Net"),
        ("vae/diffusion_pytorch_model.safetensors", "VAE"),
        ("text_encoder/model.safetensors", "text encoder 1"),
    ],
)
def test_weights_are_refused_by_name(file, part, value, sd1_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(sd1_folder, folder)
    tensors = load_file(folder / file)
    name = max(tensors)
    tensors[name].view(-1)[0] = value
    save_file(tensors, folder / file, metadata={"format": "pt"})
    with pytest.raises(InputError, match=rf"the {part}'s [\w.]+ holds NaN or infinity"):
        load(folder, device="cpu")


def test_large_weights_whose_sum_overflows_are_taken(sd1_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(sd1_folder, folder)
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["conv_in.weight"].fill_(3e38)
    save_file(tensors, file, metadata={"format": "pt"})
    assert load(folder, device="cpu").unet.conv_in.weight.isfinite().all()


@pytest.mark.parametrize("bad", range(STEPS))
def test_latents_that_are_not_finite_name_the_step(bad, sd1, monkeypatch):
    calls, forward = [], type(sd1.unet).forward

    def failing(*arguments, **settings):
        (prediction,) = forward(*arguments, **settings)
        calls.append(prediction)
        return (prediction * float("nan") if len(calls) == bad + 1 else prediction,)

    monkeypatch.setattr(type(sd1.unet), "forward", failing)
    with pytest.raises(
        InputError, match=rf"step {bad + 1} of {STEPS}: the U-Net gave NaN or infinity.*; try "
    ):
        list(run_jobs(sd1, [make_job(sd1)]))


def test_a_vae_that_gives_no_numbers_is_named(sd1, monkeypatch):
    monkeypatch.setattr(sd1.vae, "decode", lambda latents, **_: (torch.full((1, 3, 8, 8), float("nan")),))
    with pytest.raises(InputError, match=r"the VAE gave NaN.*try another --vae"):
        list(run_jobs(sd1, [make_job(sd1)]))

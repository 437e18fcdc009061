import shutil

import pytest
import torch
from safetensors.torch import save_file

from lab.errors import InputError
from lab.models.load import load
from tests.ldm import vae_tensors
from tests.tiny import make_model


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return load(make_model(tmp_path_factory.mktemp("other") / "model", "sd1", seed=5), device="cpu")


@pytest.fixture(params=["model folder", "VAE folder", "file", "file as in checkpoints"])
def source(request, other, tmp_path):
    if request.param == "model folder":
        return str(other.root)
    if request.param == "VAE folder":
        return str(shutil.copytree(other.root / "vae", tmp_path / "another"))
    prefix = "first_stage_model." if "checkpoints" in request.param else ""
    tensors = {prefix + name: tensor.contiguous() for name, tensor in vae_tensors(other.vae).items()}
    save_file(tensors, tmp_path / "vae.safetensors")
    return f"file:{tmp_path / 'vae.safetensors'}"


def test_another_vae_takes_the_place_of_the_models_own(source, other, sd1):
    bundle = load(sd1.root, device="cpu", vae=source)
    ours, theirs = bundle.vae.state_dict(), other.vae.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert bundle.hash != sd1.hash
    assert len(bundle.weights) == len(sd1.weights)


def test_what_is_no_vae_is_refused(sd1_folder, tmp_path):
    with pytest.raises(InputError, match="no VAE"):
        load(sd1_folder, device="cpu", vae=str(tmp_path))
    path = tmp_path / "x.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="no VAE like the model's"):
        load(sd1_folder, device="cpu", vae=f"file:{path}")

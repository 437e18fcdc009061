"""What hangs on a model's configs is told before its weights are read: here they cannot be read."""

import shutil

import pytest
import torch

import lab
from tests.paths import REPOSITORY

PICTURES = REPOSITORY / "lab" / "assets" / "samples" / "backpack"


@pytest.fixture(scope="module")
def model(sd1_folder, tmp_path_factory):
    """A model whose configs are whole and whose weights are none."""
    folder = shutil.copytree(sd1_folder, tmp_path_factory.mktemp("broken") / "model")
    for file in folder.glob("*/*.safetensors"):
        file.write_bytes(b"nothing")
    return folder


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """An embedding for SD 1.x's own width, which the tiny model does not have."""
    path = tmp_path_factory.mktemp("embeddings") / "toy.safetensors"
    lab.Embedding("toy", {"clip_l": torch.ones(2, 768)}).save(path)
    return path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate", "--prompt", "a", "--width", 30], "width: 30 is not a multiple"),
        (["generate", "--prompt", "a", "--scheduler", "ddim", "--karras"], "no Karras sigmas"),
        (["generate", "--prompt", "a", "--original-width", 64], "only SDXL has"),
        (["generate", "--prompt", "a", "--clip-skip", 9], "the text encoder has 3 layers"),
        (["generate", "--prompt", "a (b:-1)"], "'b' has the weight -1, which alone takes nothing away"),
        (["generate", "--prompt", "a <toy>", "--embedding", "STRANGER"], "toy is 768 wide (SD 1.x)"),
        (["generate", "--prompt", "a <cat>"], "cat"),
        (["compare", "--prompt", "a", "--axis", "clip_skip=0,9"], "the text encoder has 3 layers"),
        (["compare", "--prompt", "a", "--axis", "scheduler=ddim,euler", "--karras"], "no Karras sigmas"),
        (["train", "--name", "x", "--images", PICTURES, "--layout", "sdxl"], "layout: sdxl is for SDXL"),
        (["train", "--name", "x", "--images", PICTURES, "--clip-skip", 9], "the text encoder has 3 layers"),
        (["encode", "a <toy>", "--embedding", "STRANGER"], "toy is 768 wide (SD 1.x)"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_what_does_not_fit_the_model(cli, model, stranger, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    words = [stranger if word == "STRANGER" else word for word in arguments]
    code, out, err = cli(*words, "--model", model)
    assert code == 2 and not out and said in err and len(err.strip().splitlines()) == 1


def test_a_model_axis_is_checked_too(cli, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = cli("compare", "--prompt", "a", "--axis", f"model={model},{tmp_path / 'absent'}")
    assert code == 2 and "unknown model" in err and "absent" in err


def test_damaged_weights_are_what_is_left(cli, model, tmp_path):
    code, _, err = cli("generate", "--prompt", "a", "--model", model, "--out", tmp_path / "out")
    assert code == 2 and "damaged" in err

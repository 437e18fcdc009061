"""The hub itself is never asked: these run on lists of names and on a local cache of its layout."""

import shutil

import pytest
import torch
from huggingface_hub import constants

from lab.errors import InputError
from lab.models import hub
from lab.models.load import load

COMMIT = "0" * 40
NAMES = [
    ".gitattributes",
    "README.md",
    "model_index.json",
    "v1-5-pruned.ckpt",
    "v1-5-pruned.safetensors",
    "scheduler/scheduler_config.json",
    "safety_checker/model.safetensors",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/pytorch_model.bin",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
]


def test_only_one_set_of_safetensors_and_no_pickles_are_fetched():
    wanted = hub.needed_files(NAMES, "fp16")
    assert [name for name in wanted if not name.endswith((".json", ".txt"))] == [
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.fp16.safetensors",
    ]
    assert {"model_index.json", "unet/config.json", "tokenizer/merges.txt"} <= set(wanted)


@pytest.fixture
def cache(sd1_folder, tmp_path, monkeypatch):
    repository = tmp_path / "models--org--name"
    shutil.copytree(sd1_folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_cached_model_loads_while_the_hub_is_out_of_reach(cache, sd1):
    bundle = load("hub:org/name", device="cpu")
    assert torch.equal(bundle.unet.conv_in.weight, sd1.unet.conv_in.weight)
    assert bundle.hash == sd1.hash
    assert bundle.source == "hub:org/name"


@pytest.mark.parametrize(
    ("source", "said"),
    [("hub:org/other", "out of reach"), ("hub:a/b/c", "write hub:org/name"), ("hub:", "write hub:org/name")],
)
def test_what_cannot_be_fetched_is_one_line(cache, source, said):
    with pytest.raises(InputError, match=said) as raised:
        load(source, device="cpu")
    assert "\n" not in str(raised.value)


def test_a_revision_that_is_not_cached_is_named(cache):
    with pytest.raises(InputError, match="hub:org/name at v2: the hub is out of reach"):
        load("hub:org/name", device="cpu", revision="v2")

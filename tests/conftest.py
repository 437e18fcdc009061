import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for a model hub
os.environ.setdefault("OMP_NUM_THREADS", "2")

from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel

from lab.models.bundle import Bundle
from lab.models.load import load
from lab.sample import generate
from tests.browser import browser  # noqa: F401 (a fixture)
from tests.hub_server import cut_off, hub  # noqa: F401 (fixtures)
from tests.tiny import make_model
from tests.tiny_clip import make_clip


@pytest.fixture(scope="session")
def sd1_folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "sd1", "sd1")


@pytest.fixture(scope="session")
def sd2_folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "sd2", "sd2")


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "sdxl", "sdxl")


@pytest.fixture(scope="session")
def sd1(sd1_folder) -> Bundle:
    return load(str(sd1_folder), device="cpu")


@pytest.fixture(scope="session")
def layered(sd1) -> Bundle:
    """The tiny SD 1.x with as many layers that read the text as the real one has."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 8, 8, 8),
            norm_num_groups=4,
            cross_attention_dim=32,
            attention_head_dim=4,
        )
    return replace(sd1, unet=unet.eval().requires_grad_(False))


@pytest.fixture(scope="session")
def sd2(sd2_folder) -> Bundle:
    return load(str(sd2_folder), device="cpu")


@pytest.fixture(scope="session")
def sdxl(sdxl_folder) -> Bundle:
    return load(str(sdxl_folder), device="cpu")


@pytest.fixture(scope="session")
def emoji() -> Bundle:
    return load("emoji", device="cpu")


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory, sd1_folder):
    return make_clip(tmp_path_factory.mktemp("judges") / "clip", sd1_folder / "tokenizer")


@pytest.fixture
def denoised(monkeypatch):
    """The jobs of the images that are really made."""
    made = []
    run_jobs = generate.run_jobs

    def counting(bundle, jobs, *args, **kwargs):
        made.extend(jobs)
        return run_jobs(bundle, jobs, *args, **kwargs)

    monkeypatch.setattr(generate, "run_jobs", counting)
    return made

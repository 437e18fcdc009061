import pytest
import torch

from lab.score.clip import Clip, load_clip
from tests.tiny_clip import make_clip


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory, sd1_folder):
    return make_clip(tmp_path_factory.mktemp("judges") / "clip", sd1_folder / "tokenizer")


@pytest.fixture(scope="session")
def clip(clip_folder) -> Clip:
    return load_clip(clip_folder)


@pytest.fixture
def pixels():
    """(4, 3, 40, 56) in 0..1"""
    return torch.rand((4, 3, 40, 56), generator=torch.Generator().manual_seed(0))

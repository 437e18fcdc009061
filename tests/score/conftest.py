import pytest
import torch

from lab.score.clip import Clip, load_clip


@pytest.fixture(scope="session")
def clip(clip_folder) -> Clip:
    return load_clip(clip_folder)


@pytest.fixture
def pixels():
    """(4, 3, 40, 56) in 0..1"""
    return torch.rand((4, 3, 40, 56), generator=torch.Generator().manual_seed(0))

import pytest

import lab
from tests.tiny_clip import make_clip

PROMPTS = ["a red apple", "a blue (dog:1.2) on white"]


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory, sd1_folder):
    return make_clip(tmp_path_factory.mktemp("judges") / "clip", sd1_folder / "tokenizer")


@pytest.fixture
def config(tmp_path, clip_folder):
    """Builds a small comparison; settings go on top."""

    def build(**settings):
        usual = {
            "prompts": PROMPTS,
            "seeds": "1-3",
            "axes": {"negative_prompt": ["", "blurry"]},
            "steps": 2,
            "clip": clip_folder,
            "out": tmp_path / "run",
        }
        return lab.CompareConfig.build({k: v for k, v in (usual | settings).items() if v is not None})

    return build

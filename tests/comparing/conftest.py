import pytest

import lab

PROMPTS = ["a red apple", "a blue (dog:1.2) on white"]


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

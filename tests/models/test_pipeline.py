import json
import shutil

import pytest

from lab.errors import InputError
from lab.models.load import load


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_pipelines_share_the_modules(family, request):
    bundle = request.getfixturevalue(family)
    pipeline = bundle.pipeline()
    index = json.loads((bundle.root / "model_index.json").read_text())
    assert type(pipeline).__name__ == index["_class_name"]
    assert type(pipeline.scheduler).__name__ == index["scheduler"][1]
    assert pipeline.unet is bundle.unet
    assert pipeline.vae is bundle.vae
    assert pipeline.text_encoder is bundle.towers[0].encoder
    assert pipeline.tokenizer is bundle.towers[0].tokenizer
    if family == "sdxl":
        assert pipeline.text_encoder_2 is bundle.towers[1].encoder
        assert pipeline.tokenizer_2 is bundle.towers[1].tokenizer
        assert pipeline.config.force_zeros_for_empty_prompt


def test_every_call_gives_a_fresh_scheduler(sd1):
    assert sd1.pipeline().scheduler is not sd1.pipeline().scheduler


@pytest.mark.parametrize("name", ["NoScheduler", "StableDiffusionPipeline"])
def test_a_scheduler_that_diffusers_lacks_is_refused(name, sd1_folder, tmp_path):
    folder = shutil.copytree(sd1_folder, tmp_path / "model")
    path = folder / "scheduler/scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": name}))
    with pytest.raises(InputError, match=name):
        load(folder, device="cpu").pipeline()

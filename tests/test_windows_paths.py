r"""Paths as Windows writes them, in every option whose values have signs of their own: `C:\x` is a path, no `prefix:`.

Here they are names of files in one folder; what parts a value sees the same text.
"""

from pathlib import Path, PureWindowsPath

import pytest
import torch

from lab.comparing.axes import read_axis
from lab.comparing.config import CompareConfig
from lab.embeddings.embedding import Embedding
from lab.embeddings.library import collect
from lab.errors import InputError
from lab.models.config import ModelOptions, split_lora
from lab.models.source import locate, locate_part
from lab.sample.config import GenerateConfig
from lab.search.sources import check_source
from lab.training.checkpoint import without_folders
from lab.training.config import TrainConfig

FILE, FOLDER = r"C:\models\x, y=1.safetensors", r"D:\bags"


@pytest.fixture(autouse=True)
def drive(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Embedding("x", {"clip_l": torch.ones(1, 768)}).save("toy.safetensors")
    Path("toy.safetensors").rename(FILE)
    Path(FOLDER).mkdir()


def test_models_and_their_parts():
    assert locate(f"file:{FILE}") == Path(FILE)
    assert locate(FOLDER) == locate_part(FOLDER, "controlnet") == Path(FOLDER)
    with pytest.raises(InputError, match="this is a file; write file:C:"):
        locate(FILE)
    with pytest.raises(InputError, match="neither bundled nor a folder; known"):
        locate("C:/absent")


def test_a_lora_with_its_scale():
    assert split_lora(FILE) == (Path(FILE), 1.0)
    assert split_lora(f"{FILE}=0.8") == (Path(FILE), 0.8)
    assert ModelOptions.build({"lora": [f"{FILE}=-1"]}).lora == [f"{FILE}=-1"]


def test_embeddings_with_their_names():
    assert list(collect([FILE])) == ["C:\\models\\x, y=1"]  # on Windows the stem alone
    assert list(collect([f"{FILE}=toy"])) == ["toy"]
    (value,) = read_axis("embedding", f'"{FILE}=toy"')
    assert value.label == "toy"


def test_places_along_an_axis():
    labels = [value.label for value in read_axis("controlnet", f"none, {FILE}, {FOLDER}")]
    assert labels == ["(not given)", FILE, FOLDER]
    axes = CompareConfig.build({"axes": {"model": f"emoji, file:{FILE}"}, "prompts": ["a cat"]}).axes
    assert [value.label for value in read_axis("model", axes["model"])] == ["emoji", f"file:{FILE}"]


def test_what_is_learned_from():
    config = TrainConfig.build({"images": [rf"bag={FOLDER}", rf"owl={FOLDER}"], "init": f"file:{FILE}"})
    assert (config.name, config.images) == ("bag", Path(FOLDER))
    assert [(each.name, each.images) for each in config.more] == [("owl", Path(FOLDER))]
    assert TrainConfig.build({"images": FOLDER, "name": "bag"}).images == Path(FOLDER)


def test_what_is_searched_and_what_controls():
    assert check_source(f"prompts:{FILE}") == f"prompts:{FILE}"
    assert GenerateConfig.build({"control_image": FILE, "prompt": "a cat"}).control_image == Path(FILE)


def test_a_recipe_keeps_a_name_without_its_folders(monkeypatch):
    monkeypatch.setattr("lab.training.checkpoint.PurePath", PureWindowsPath)
    assert without_folders(r"file:C:\models\x.pt") == "file:x.pt"
    assert without_folders(r"D:\loras\style.safetensors=0.8") == "style.safetensors=0.8"

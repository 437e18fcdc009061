"""Every recipe in configs/train runs as it stands; those for hub models are planned on a tiny model of the family."""

import pytest

from lab.cli.main import main
from lab.training.config import TrainConfig
from tests.paths import REPOSITORY

OTHERS = {"emoji-negative", "emoji-pair", "emoji-reward", "emoji-slider"}
FROM_IMAGES = ("5 images", "buckets:", "begins at:", "vector 4:", "memory: about", "time: about")
PRINTED = {
    "negative": ("192 images would be made", "24 worst", "PROMPT, <emoji-negative>", "time: about"),
    "slider": ("noto emoji of a dog on a white background ->", "begins at:", "vector 4:", "time: about"),
    "reward": ("256 prompts", "begins at:", "vector 8:", "memory: about", "time: about"),
}
RECIPES = sorted((REPOSITORY / "configs" / "train").glob("*.yaml"))


def test_every_family_has_both_kinds():
    expected = {f"{model}-{kind}" for model in ("emoji", "sd15", "sdxl") for kind in ("object", "style")}
    assert {recipe.stem for recipe in RECIPES} == expected | OTHERS


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_dry_run(recipe, sd1_folder, sdxl_folder, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(REPOSITORY)
    config = TrainConfig.read(recipe)
    arguments = ["train", "--config", str(recipe), "--dry-run", "--out", str(tmp_path / "run")]
    if config.model.startswith("hub:"):
        folder = sdxl_folder if "sdxl" in recipe.stem else sd1_folder
        arguments += ["--model", str(folder), "--resolution", "32", "--dtype", "float32"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    for words in (f"<{config.name}>", *PRINTED.get(config.objective, FROM_IMAGES)):
        assert words in printed
    assert not (tmp_path / "run").exists()

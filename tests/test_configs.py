"""Every recipe in configs/ that makes images runs as it stands, here with few steps."""

import pytest

import lab
from lab.cli.main import main
from lab.comparing.cells import check_cells
from lab.comparing.experiment import Experiment
from lab.comparing.knock_outs import with_parts
from tests.paths import REPOSITORY

RECIPES = sorted((REPOSITORY / "configs" / "generate").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "--config", str(recipe), "--steps", "2", "--seeds", "1"]) == 0
    assert list(tmp_path.glob("outputs/*/contact-sheet.png"))


@pytest.mark.parametrize(
    "recipe", sorted((REPOSITORY / "configs" / "compare").glob("*.yaml")), ids=lambda p: p.stem
)
def test_comparison_can_be_laid_out(recipe, emoji):
    config = with_parts(emoji, lab.CompareConfig.read(recipe))
    sizes, _ = check_cells(emoji, Experiment(config))
    assert len(sizes) > 1

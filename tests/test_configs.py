"""Every recipe in configs/ that makes images runs as it stands, here with few steps."""

import pytest

from lab.cli.main import main
from tests.paths import REPOSITORY

RECIPES = sorted((REPOSITORY / "configs" / "generate").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "--config", str(recipe), "--steps", "2", "--seeds", "1"]) == 0
    assert list(tmp_path.glob("outputs/*/contact-sheet.png"))

"""The table of objectives: one entry makes an objective that can be asked for everywhere."""

import subprocess
import sys
from typing import get_args

import pytest
import torch

import lab
from lab.config import Config
from lab.embeddings.embedding import Kind
from lab.errors import InputError
from lab.training.objectives.objective import OBJECTIVES, Objective, find_objective


class FlatOptions(Config):
    """What all values are pulled to."""

    level: float = 0.0


class Flat(Objective):
    """Pulls all values of the vectors to one level."""

    options = FlatOptions

    kind = "style"
    word = "apple"
    watched = ("distance",)

    def fingerprint(self):
        return {"level": str(self.config.level)}

    def describe(self):
        yield "no data"

    def start(self, learned, listener=None):
        self.rows = learned.parameters()

    def batch(self, step):
        return [0.0, 0.0]

    def fixed(self):
        return [[0.0]]

    def losses(self, examples):
        return sum((rows - self.config.level).square().sum() for rows in self.rows).expand(len(examples))

    def watch(self, examples):
        losses = self.losses(examples)
        return torch.stack([losses, losses.sqrt()], dim=1)


@pytest.fixture
def flat(monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "flat", Flat)


def test_one_that_is_added_at_run_time_can_be_trained(sd1, flat, tmp_path, heard):
    settings = {"steps": 200, "learning_rate": 0.001, "preview_every": 0, "warmup": 0, "stop": "never"}
    settings |= {"level": 0.01}
    learned = lab.train(
        sd1, objective="flat", name="my-flat", vectors=3, out=tmp_path / "run", listener=heard, **settings
    )
    torch.testing.assert_close(learned.vectors["clip"], torch.full((3, 32), 0.01), atol=1e-3, rtol=0)
    assert (learned.name, learned.kind) == ("my-flat", "style")
    assert heard.notes[:2] == ["<my-flat> begins at:", "  vector 1: apple"]
    assert heard.steps[-1].evaluation["distance"] < 0.01
    resumed = lab.train(sd1, resume=tmp_path / "run", steps=201)
    assert resumed.provenance.step in (200, 201)


def test_an_unknown_one_is_refused_with_the_nearest(sd1, flat, config):
    with pytest.raises(InputError, match="unknown objective 'flet'; nearest: flat"):
        lab.train(sd1, config, objective="flet")
    with pytest.raises(InputError, match="unknown option 'level'"):
        lab.train(sd1, config, level=0.01)
    with pytest.raises(InputError, match="unknown objective 'flet'; nearest: flat"):
        lab.train(sd1, config, more=[{"name": "other", "objective": "flet"}])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_entry_is_an_objective_that_says_what_it_is(name):
    objective = find_objective(name)
    assert issubclass(objective, Objective) and objective.__doc__
    options = OBJECTIVES[name].options
    assert options is None or issubclass(lab.TrainConfig, options)
    assert objective.kind in get_args(Kind) and objective.word


def test_an_entry_brings_its_options_and_flags():
    code = (
        "from pydantic import Field\n"
        "from lab.config import Config\n"
        "from lab.training.objectives.objective import OBJECTIVES, ObjectiveEntry\n"
        "class FlatOptions(Config):\n"
        "    'Flat vectors.'\n"
        "    level: float = Field(0.0, description='What all values are pulled to.')\n"
        "OBJECTIVES['flat'] = ObjectiveEntry('nowhere:Flat', FlatOptions)\n"
        "import lab\n"
        "from lab.cli.main import main\n"
        "print(lab.TrainConfig(level=0.5).level)\n"
        "main(['train', '--help'])\n"
        "main(['train', '--level', 'much', '--images', '.', '--name', 'x'])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("0.5\n") and "Flat vectors" in result.stdout
    assert "--level" in result.stdout and "much" in result.stderr

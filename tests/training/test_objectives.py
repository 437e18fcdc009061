"""The table of objectives: one entry makes an objective that can be asked for everywhere."""

import json
import re
import subprocess
import sys
from typing import get_args

import pytest
import torch

import lab
from lab.cli.main import main
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
    lab.train(sd1, resume=tmp_path / "run", steps=201, listener=heard)
    assert heard.steps[-1].step == 201


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


@pytest.mark.parametrize(
    ("objective", "settings", "told"),
    [
        ("concept", {"text": "red"}, "text: says nothing to --objective concept, but to text; leave it out"),
        ("slider", {"from": "a X", "to": "b X", "keep_context": 0.5}, "keep_context: .* but to concept, "),
        ("text", {"text": "red", "images": "."}, "images: says nothing to --objective text"),
        ("contrastive", {"images": ".", "place": "output"}, "place: says nothing to --objective contrastive"),
        ("pair", {"images": ".", "more": [{"name": "other-toy"}]}, "more: says nothing to --objective pair"),
        ("reward", {"loss": "huber"}, "loss: says nothing to --objective reward"),
        ("style", {"images": ".", "from": "a cat"}, "from: says nothing to --objective style, but to slider"),
    ],
)
def test_options_of_other_objectives_are_refused_at_every_door(
    objective, settings, told, sd1, tmp_path, capsys
):
    settings = {"objective": objective, "name": "cat-toy", "out": str(tmp_path / "run"), **settings}
    with pytest.raises(InputError, match=told):
        lab.train(sd1, **settings)
    (tmp_path / "run.yaml").write_text(json.dumps(settings))
    assert main(["train", "--config", str(tmp_path / "run.yaml")]) == 2
    assert re.search(told, capsys.readouterr().err)
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items() if key != "more"]
    assert "more" in settings or (main(["train", *flags]) == 2 and re.search(told, capsys.readouterr().err))
    assert not (tmp_path / "run").exists()


def test_defaults_of_other_objectives_options_are_no_wish(sd1, tmp_path):
    """A run's config.yaml, which has every option, makes the run again."""
    settings = {"steps": 1, "preview_every": 0, "text": "red", "objective": "text", "name": "cat-toy"}
    lab.train(sd1, **settings, out=tmp_path / "run")
    again = lab.TrainConfig.read(tmp_path / "run" / "config.yaml", {"out": tmp_path / "again"})
    assert lab.train(sd1, again).name == "cat-toy"


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

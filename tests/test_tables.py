"""The README's table of tables is true: an entry that is added while the program runs is used at every door.

A metric and an axis: tests/comparing/test_compare.py. An objective: tests/training/test_objectives.py.
"""

import json
import re
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from PIL import Image

import lab
from lab.cli.main import main
from lab.condition.weighting import WEIGHTINGS, Weighting
from lab.models.family import FAMILIES
from lab.models.schedulers import SCHEDULERS, Scheduler
from lab.prompt.dialects import DIALECTS, Dialect
from lab.prompt.syntax import Reading, Run, Segment
from tests.paths import REPOSITORY
from tests.tiny import make_model


def read_shouted(text):
    """The dialect of this test: words in capitals weigh 2."""
    segments = [
        Segment(match[0], 2.0 if match[0].isupper() else 1.0, match.span(), "text", (Run(0, *place),))
        for match in re.finditer(r"\S+", text)
        for place in [(match.start(), len(match[0]))]
    ]
    return Reading.of(tuple(segments))


@pytest.fixture
def mine(monkeypatch):
    """A dialect, its weighting and a scheduler of one's own, each as one entry."""
    halved = Weighting("multiplies rows by half their weight", lambda text: text.z * text.w[..., None] / 2)
    monkeypatch.setitem(WEIGHTINGS, "halved", halved)
    monkeypatch.setitem(DIALECTS, "shouted", Dialect("words in capitals", read_shouted, "halved"))
    monkeypatch.setitem(SCHEDULERS, "ddpm", Scheduler("DDPMScheduler", "DDPM"))


def test_a_dialect_brings_its_reader_and_its_arithmetic(sd1, mine):
    made = lab.encode(sd1, "a RED apple", dialect="shouted")
    plain = lab.encode(sd1, "a RED apple", dialect="plain")
    weights = torch.tensor([2.0 if span.text == "RED" else 1.0 for span in made.spans])
    assert [span.text for span in made.spans] == ["a", "RED", "apple"]
    expected = plain.embeds / 2
    for span, weight in zip(made.spans, weights, strict=True):
        expected[span.start : span.end] *= weight
    torch.testing.assert_close(made.embeds, expected)
    torch.testing.assert_close(
        lab.encode(sd1, "a RED apple", dialect="shouted", weighting="ignore").embeds, plain.embeds
    )


def test_dialect_weighting_and_scheduler_reach_files_and_flags(sd1_folder, mine, tmp_path, capsys):
    out = tmp_path / "run"
    common = ["--model", str(sd1_folder), "--steps", "2", "--device", "cpu"]
    own = ["--dialect", "shouted", "--scheduler", "ddpm"]
    assert main(["generate", "--prompt", "a RED apple", *own, *common, "--out", str(out)]) == 0
    (path,) = out.glob("0*.png")
    with Image.open(path) as image:
        record, parameters = json.loads(image.text["lab"]), image.text["parameters"]
    assert (record["dialect"], record["weighting"], record["scheduler"]) == ("shouted", "halved", "ddpm")
    assert "Sampler: DDPM" in parameters
    capsys.readouterr()
    assert main(["rerun", str(path)]) == 0
    assert "the same" in capsys.readouterr().out
    assert main(["generate", "--prompt", "a cat", "--dialect", "shout", *common]) == 2
    assert "nearest: shouted" in capsys.readouterr().err


def test_a_dialect_and_a_scheduler_are_values_of_axes(sd1, mine, tmp_path):
    axes = {"dialect": ["plain", "shouted"], "scheduler": ["ddim", "ddpm"]}
    report = lab.compare(
        sd1,
        prompts="a RED apple",
        seeds="1-2",
        steps=2,
        axes=axes,
        metrics=["sharpness"],
        out=tmp_path / "run",
    )
    assert {row["variant"] for row in report.effects} == {
        "dialect=plain, scheduler=ddpm",
        "dialect=shouted, scheduler=ddim",
        "dialect=shouted, scheduler=ddpm",
    }


def test_a_family_is_told_by_its_traits(tmp_path, monkeypatch):
    traits = replace(FAMILIES["sd1"], label="Stable Diffusion of mine", activation="relu", guidance=3.5)
    monkeypatch.setitem(FAMILIES, "mine", traits)
    folder = make_model(tmp_path / "model", "sd1")
    config = folder / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_act": "relu"}))
    bundle = lab.load(str(folder), device="cpu")
    assert bundle.family == "mine" and bundle.defaults.guidance == 3.5
    (result,) = lab.generate(bundle, prompt="a cat", seeds=[1], steps=2)
    assert result.record["family"] == "mine" and result.record["guidance"] == 3.5


def test_the_readme_names_the_tables():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    tables = re.findall(r"`([A-Z]+)` in `(lab/[\w/]+)\.py`", readme)
    assert len(tables) == 8
    for name, module in tables:
        assert getattr(import_module(module.replace("/", ".")), name), f"{name} in {module}"

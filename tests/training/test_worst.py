"""Negative embeddings from images of what is to be avoided: from a folder, or the worst that the model makes."""

import json
from itertools import count

import pytest
import torch
from PIL import Image

import lab
from lab.errors import InputError
from lab.images import read_pixels
from lab.score.metrics import METRICS, Metric
from lab.training.config import TrainConfig

PROMPTS = ["a red apple", "a blue cat", "a dog on white"]


def darkness(batch):
    """The worst images are the darkest."""
    return batch.pixels.mean(dim=(1, 2, 3))


@pytest.fixture
def making(changed, tmp_path, monkeypatch):
    """A run that learns from the 3 darkest of 7 images."""
    bright = Metric("brightness", "", 0, 1, 1, "none", darkness)
    monkeypatch.setitem(METRICS, "bright", bright)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS), encoding="utf-8")
    return lambda **settings: changed(
        **{
            "objective": "negative",
            "images": None,
            "name": "bad",
            "worst_of": 7,
            "worst": 3,
            "score": "bright",
            "prompt_file": prompts,
            "sampling_steps": 2,
            "guidance": 2.0,
        }
        | settings
    )


def test_from_a_folder_it_is_textual_inversion_that_says_it_is_negative(sd1, changed, tmp_path, heard):
    as_style = lab.train(sd1, changed(objective="style", templates=["{name}"], out=tmp_path / "style"))
    learned = lab.train(sd1, changed(objective="negative", templates=["{name}"]), listener=heard)
    assert learned.kind == "negative" and torch.equal(learned.vectors["clip"], as_style.vectors["clip"])


def test_the_lab_makes_images_and_learns_from_the_worst(sd1, making):
    config = making()
    learned = lab.train(sd1, config)
    made = sorted((config.out / "made").glob("0*.png"))
    worst = sorted((config.out / "worst").glob("*.png"))
    brightness = {path.name: float(read_pixels(path).mean()) for path in made}
    assert len(made) == 7 and learned.kind == "negative"
    assert {path.name for path in worst} == set(sorted(brightness, key=brightness.get)[:3])
    for path in worst:
        with Image.open(path) as image:
            prompt = json.loads((config.out / "made" / path.name).with_suffix(".json").read_text())["prompt"]
            assert image.size == (32, 32) and prompt in PROMPTS
        assert path.with_suffix(".txt").read_text().splitlines() == ["<bad>", f"{prompt}, <bad>"]
    prompts = [json.loads(path.with_suffix(".json").read_text())["prompt"] for path in made]
    assert {prompts.count(prompt) for prompt in PROMPTS} == {2, 3}, "every prompt before any comes again"
    again = lab.train(sd1, TrainConfig(resume=config.out, steps=8))
    assert again.provenance.base_model == sd1.root.name


def test_interrupted_making_goes_on_and_ends_the_same(sd1, making, tmp_path, monkeypatch):
    whole = lab.train(sd1, making(out=tmp_path / "whole"))
    from lab.runs.run import RunFolder

    save, saved, calls = RunFolder.save, [], count()

    def interrupted(self, *arguments):  # by several threads
        if next(calls) == 4:
            raise KeyboardInterrupt
        saved.append(save(self, *arguments))

    monkeypatch.setattr(RunFolder, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lab.train(sd1, making())
    monkeypatch.setattr(RunFolder, "save", save)
    times = [path.stat().st_mtime_ns for path in saved]
    resumed = lab.train(sd1, making())
    assert times == [path.stat().st_mtime_ns for path in saved], "what was there is not made again"
    torch.testing.assert_close(resumed.vectors["clip"], whole.vectors["clip"], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prompt_file": None}, "--prompt-file"),
        ({"worst": 8}, "8 of 7"),
        ({"score": "degraded"}, "quality classifier"),
        ({"score": "sharpness"}, "single image"),
        ({"score": "brigth"}, "nearest: bright"),
        ({"reward": ["bright=-1"], "score": "reward"}, "above 0"),
        ({"images": "."}, "leave one of them out"),
    ],
)
def test_bad_input_is_one_line(sd1, making, settings, words):
    with pytest.raises(InputError, match=words) as error:
        lab.train(sd1, making(**settings))
    assert "\n" not in str(error.value) and not (making().out / "made").exists()


def test_a_negative_begins_at_words_for_it_and_previews_stand_in_the_negative_prompt(sd1, making, heard):
    config = making(init="auto", preview_every=6, preview_seeds="1", preview_steps=2)
    lab.train(sd1, config, listener=heard)
    assert any("7 images" in note for note in heard.notes)
    (first,) = sorted((config.out / "previews").glob("000000-prompt1-*.png"))
    record = lab.runs.png.read_record(first)
    assert record["negative_prompt"] == "<bad>" and record["prompt"] == PROMPTS[0]

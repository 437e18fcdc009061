"""A whole judgement on a tiny random model: the card, looking early, going on, refusals."""

import json
import shutil

import pytest
import torch

import lab
from lab.cli.main import main
from lab.embeddings.embedding import Embedding
from lab.judging.config import LISTS, choose_prompts
from lab.text import read_lines
from tests.listening import Heard

PROMPTS = ["a red apple", "a blue dog", "a cat on white", "the painting of a cat"]


@pytest.fixture
def file(tmp_path):
    """Writes an embedding and returns its file."""

    def write(name="neg", kind="unknown", seed=0):
        generator = torch.Generator().manual_seed(seed)
        path = tmp_path / f"{name}.safetensors"
        Embedding(name, {"clip": torch.randn(2, 32, generator=generator)}, kind=kind).save(path)
        return path

    return write


@pytest.fixture
def settings(tmp_path, clip_folder):
    return {
        "side": "negative",
        "prompt": PROMPTS,
        "steps": 2,
        "guidance": 3.0,
        "seeds": "1",
        "block": 2,
        "weights": "",
        "clip": clip_folder,
        "out": tmp_path / "judged",
    }


def test_the_card_is_the_file_and_stands_alone(sd1, file, settings, tmp_path, capsys):
    path, heard = file(), Heard()
    asked = {"weights": "0,1,1.5", "seeds": "1-2", "negative_interval": (0.5, 20.0)}
    card = lab.judge(sd1, path, listener=heard, **settings | asked)
    assert card["models"][0]["settings"]["negative_interval"] == [0.5, 20.0]
    assert card == json.loads((settings["out"] / "neg.card.json").read_text(encoding="utf-8"))
    verdict = card["verdict"]
    assert (verdict["against"], verdict["metric"], verdict["smallest"]) == ("nothing", "clip_text", 0.02)
    assert verdict["pairs"] == 2 * verdict["prompts"]
    assert {row["against"] for row in card["effects"]} == {"nothing", "plain words", "random vectors"}
    assert card["file"]["sha256"] == lab.read_embedding(path).provenance.sha256
    assert card["models"][0]["model_hash"] == sd1.hash
    assert [row["weight"] for row in card["models"][0]["strengths"]["rows"]][::2] == [0, 1, 1.5]
    page = (settings["out"] / "neg.card.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 2 * len(card["models"][0]["pairs"])
    assert str(tmp_path) not in json.dumps(card | {"models": [card["models"][0] | {"model": ""}]})
    assert any("until a difference is sure" in note for note in heard.notes)
    shutil.copy(settings["out"] / "neg.card.json", tmp_path)
    assert main(["inspect", str(path)]) == 0
    assert card["sentences"][0] in capsys.readouterr().out
    file(seed=1)
    assert main(["inspect", str(path)]) == 0
    assert "It is of a file with other contents." in capsys.readouterr().out


def test_it_stops_when_it_is_sure_and_goes_on_where_it_was(sd1, file, settings, denoised, monkeypatch):
    monkeypatch.setattr("lab.judging.looks.NOTHING_FROM", 2)
    path, prompts = file(), [*PROMPTS, "a dog", "red", "blue", "an apple"]
    sure = settings | {"metrics": ["sharpness"], "smallest": 1e9, "prompt": prompts}
    card = lab.judge(sd1, path, **sure)
    assert card["verdict"]["answer"] == "makes no difference that matters"
    assert card["verdict"]["prompts"] == 6, "of four prompts there is no interval yet"
    assert len(denoised) == 4 * 6, "nothing, words, random vectors and the embedding"
    made = sorted((settings["out"] / "cells").glob("*.png"))
    made[1].unlink()
    denoised.clear()
    assert lab.judge(sd1, path, **sure) == card and len(denoised) == 1
    with pytest.raises(lab.InputError, match="prompts changed"):
        lab.judge(sd1, path, **sure | {"prompt": PROMPTS})


def test_a_concept_is_held_against_its_words(sd1, file, settings):
    path = file("toy", "concept")
    card = lab.judge(sd1, path, **settings | {"side": "auto", "words": "apple", "prompt": PROMPTS[:3]})
    assert card["side"] == "positive" and card["verdict"]["against"] == "the words “apple”"
    asked = card["models"][0]["settings"]["prompts"]
    assert asked == [f"{prompt}, {{embedding}}" for prompt in PROMPTS[:3]]
    with pytest.raises(lab.InputError, match="give the words"):
        lab.judge(sd1, path, **settings | {"side": "positive", "out": settings["out"] / "x"})


def test_several_files_are_ranked_and_ties_are_said(sd1, file, settings):
    files = [file("one"), file("two", seed=1)]
    cards = lab.judge(sd1, files, **settings)
    assert [card["ranking"]["of"] for card in cards] == [2, 2]
    assert [card["ranking"]["rank"] for card in cards] == [1, 1]
    assert cards[0]["ranking"]["tied_with"] == [cards[1]["name"]]
    assert {path.name for path in settings["out"].glob("*.card.*")} == {
        f"{name}.card.{kind}" for name in ("one", "two") for kind in ("json", "html")
    }


def test_several_models_say_how_the_effect_travels(sd1, sd1_folder, file, settings, tmp_path):
    other = shutil.copytree(sd1_folder, tmp_path / "other")
    (other / "generation_config.json").write_text(json.dumps({"guidance": 9.0}))
    card = lab.judge([sd1, str(other)], file(), **settings)
    assert [found["model"] for found in card["models"]] == [sd1.source, str(other)]
    (row,) = card["travel"]
    assert row["differs"] is False and row["model"] == str(other)
    assert any("does not surely differ" in sentence for sentence in card["sentences"])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"side": "auto"}, "give --side"),
        ({"prompt": ["a cat"]}, "two or more"),
        ({"prompt": ["a cat", "a  cat"]}, "given twice"),
        ({"weights": "-1"}, "below 0"),
        ({"metrics": ["ssim_baseline"]}, "take another"),
        ({"metrics": ["clip_reference"]}, "--references"),
        ({"smallest": 0}, "smallest"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(sd1, file, settings, denoised, changed, words):
    with pytest.raises(lab.InputError, match=words):
        lab.judge(sd1, file(), **settings | changed)
    assert not denoised and not settings["out"].exists()


def test_the_command(sd1_folder, file, settings, capsys):
    told = {**settings, "model": str(sd1_folder), "device": "cpu"}
    flags = [
        f"--{key}={one}" for key, value in told.items() for one in (value if key == "prompt" else [value])
    ]
    assert main(["judge", str(file()), *flags]) == 0
    out = capsys.readouterr().out
    assert "<neg>" in out and "neg.card.html" in out
    assert main(["judge"]) == 2 and "name at least one" in capsys.readouterr().err


@pytest.mark.parametrize("emoji", [False, True])
@pytest.mark.parametrize(("side", "style"), [("negative", False), ("positive", False), ("positive", True)])
def test_the_lists_that_come_with_the_lab(side, style, emoji):
    prompts = choose_prompts(lab.JudgeConfig(), side, style, emoji)
    assert len(set(prompts)) == 64
    assert all(("{embedding}" in prompt) == (side == "positive") for prompt in prompts)


def test_lists_are_for_no_one_in_particular():
    assert {path.stem for path in LISTS.glob("*.txt")} == {
        "emoji",
        "emoji-concept",
        "general",
        "general-concept",
    }
    assert not set(read_lines(LISTS / "general.txt")) & set(read_lines(LISTS / "emoji.txt"))


def test_without_anybody_who_knows_better_it_says_what_changes(sd1, file, settings):
    heard = Heard()
    card = lab.judge(sd1, file(), listener=heard, **settings | {"clip": None, "prompt": PROMPTS[:2]})
    assert card["verdict"]["metric"] == "sharpness"
    assert any("give a CLIPModel folder" in note for note in heard.notes)


@pytest.mark.parametrize(("side", "name"), [("negative", "toy-neg"), ("positive", "toy")])
def test_of_a_pair_the_half_that_is_for_the_prompt(sd1, settings, side, name):
    generator = torch.Generator().manual_seed(0)
    halves = [
        Embedding(half, {"clip": torch.randn(1, 32, generator=generator)}, kind=kind)
        for half, kind in (("toy", "concept"), ("toy-neg", "negative"))
    ]
    card = lab.judge(sd1, halves, **settings | {"side": side, "words": "apple", "prompt": PROMPTS[:2]})
    assert (card["name"], card["side"]) == (name, side)


def test_the_bundled_model_is_judged_by_a_classifier_that_nothing_learned_from(emoji, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "lab.judging.trial.open_tools", lambda _, options, *rest: asked.append(options) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        lab.judge(emoji, emoji.root / "negative.safetensors", side="negative")
    assert asked[0].quality == emoji.root / "judge_quality"

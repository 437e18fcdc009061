"""What ships in lab/assets/emoji: its layout, its size, and that nothing held out was learnt."""

import json
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open

ASSETS = Path(__file__).resolve().parents[2] / "lab" / "assets"
EMOJI = ASSETS / "emoji"


def keys(path: Path) -> set[str]:
    with safe_open(path, "pt") as file:
        return set(file.keys())


def test_everything_fits_into_50_megabytes():
    assert sum(f.stat().st_size for f in EMOJI.rglob("*") if f.is_file()) <= 50_000_000


def test_the_text_tower_is_stored_once_under_the_prefix_that_old_readers_want():
    assert all(key.startswith("text_model.") for key in keys(EMOJI / "text_encoder" / "model.safetensors"))
    rest = keys(EMOJI / "clip" / "model.safetensors")
    assert {"visual_projection.weight", "text_projection.weight", "logit_scale"} <= rest
    assert not any(key.startswith("text_model.") for key in rest)


def test_both_tokenizer_layouts_say_the_same():
    whole = json.loads((EMOJI / "tokenizer" / "tokenizer.json").read_text())["model"]
    assert whole["vocab"] == json.loads((EMOJI / "tokenizer" / "vocab.json").read_text())
    merges = (EMOJI / "tokenizer" / "merges.txt").read_text().splitlines()[1:]
    assert [" ".join(m) for m in whole["merges"]] == merges


def test_held_out_objects_are_not_among_those_learnt():
    held = json.loads((EMOJI / "held_out.json").read_text())
    assert not set(held["objects"]) & set(held["training_objects"])
    assert (len(held["objects"]), len(held["pairs"]), len(held["training_objects"])) == (60, 100, 400)
    assert {name for name, _ in held["pairs"]} <= set(held["training_objects"])


@pytest.mark.parametrize("kind", ["samples", "samples_test"])
def test_samples_are_five_small_images_each_of_something_held_out(kind):
    held = json.loads((EMOJI / "held_out.json").read_text())
    allowed = {name.replace(" ", "-") for name in held["objects"]} | {"emojione-style"}
    folders = [f for f in (ASSETS / kind).iterdir() if f.is_dir()]
    assert len(folders) == 13
    for folder in folders:
        assert folder.name in allowed
        assert [Image.open(f).size for f in sorted(folder.glob("*.png"))] == [(128, 128)] * 5
    assert (ASSETS / kind / "ATTRIBUTION.md").exists()


def test_nothing_is_both_learnt_from_and_tested_on():
    for folder in (ASSETS / "samples").iterdir():
        if folder.is_dir():
            seen = {f.read_bytes() for f in folder.glob("*.png")}
            assert not seen & {f.read_bytes() for f in (ASSETS / "samples_test" / folder.name).glob("*.png")}

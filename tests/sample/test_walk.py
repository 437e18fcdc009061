"""Walks from prompt to prompt: where they begin and end, what lies between, and that frames are even."""

import math

import pytest
import torch
from PIL import Image

import lab
from lab.embeddings.embedding import Embedding
from lab.errors import InputError
from lab.images import psnr
from lab.sample.walk import even_places, linear, spherical

STOPS = ["a red apple", "a cat"]


def test_ways_begin_and_end_at_the_prompts():
    a, b = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)).chunk(2, dim=1)
    for way in (linear, spherical):
        assert torch.allclose(way(a, b, 0.0), a, atol=1e-6) and torch.allclose(way(a, b, 1.0), b, atol=1e-6)
        assert torch.allclose(way(a, 2 * a, 0.5), 1.5 * a, atol=1e-5)


def test_an_arc_keeps_the_norm_and_halves_the_angle():
    a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    assert torch.allclose(spherical(a, b, 0.5), torch.full((1, 2), math.sqrt(2)))
    assert torch.allclose(linear(a, b, 0.5), torch.ones(1, 2))


def test_places_have_equal_changes_between_them():
    assert even_places([0.0, 1.0, 2.0], [1.0, 3.0]) == pytest.approx([0, 4 / 3, 2])
    assert even_places([0.0, 0.5, 1.0], [0.0, 2.0]) == pytest.approx([0.0, 0.75, 1.0])
    places = even_places([0.0, 1.0, 2.0, 3.0], [5.0, 0.1, 0.1])
    assert places[0] == 0 and places[-1] == 3 and places == sorted(places)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_walk_goes_from_one_image_to_the_other(family, request, tmp_path):
    bundle = request.getfixturevalue(family)
    common = {"seeds": "1-2", "steps": 2, "negative_prompt": ""}
    frames = lab.generate(bundle, walk=STOPS, frames=3, way="spherical", out=tmp_path / "walk", **common)
    whole = lab.generate(bundle, prompt=STOPS, **common)
    assert [frame.record["seed"] for frame in frames] == [1, 2, 1, 2, 1, 2]
    for frame, same in zip([*frames[:2], *frames[-2:]], whole, strict=True):
        assert frame.image.tobytes() == same.image.tobytes()
    for seed in (1, 2):
        with Image.open(tmp_path / "walk" / f"walk-seed{seed}.webp") as animation:
            assert animation.n_frames == 4  # there and back
        assert f'<img src="walk-seed{seed}.webp"' in (tmp_path / "walk" / "index.html").read_text()
    again = lab.generate(bundle, lab.GenerateConfig.build({"embeds": frames[2].record["embeds"], **common}))
    assert psnr(again[0].image, frames[2].image) > 45  # other company in the batch
    before = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "walk").glob("*.png") if path.name[0] == "0"
    }
    lab.generate(bundle, walk=STOPS, frames=3, way="spherical", out=tmp_path / "walk", **common)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_what_a_walk_avoids_may_be_an_embedding_in_memory(sd1, tmp_path):
    toy = Embedding("toy", {"clip": torch.full((2, 32), 0.5)})
    common = {"negative_prompt": "<toy>", "embeddings": [toy], "steps": 1}
    frames = lab.generate(sd1, walk=STOPS, frames=3, out=tmp_path / "walk", **common)
    (last,) = lab.generate(sd1, prompt=STOPS[-1], **common)
    assert psnr(frames[2].image, last.image) > 45


@pytest.mark.parametrize(
    ("stops", "settings"),
    [
        (["a cat", "a red apple, " * 40], {}),
        (STOPS, {"knock_out": "[padding]"}),
        (["a red cat", "a red apple"], {"knock_out": "red"}),
    ],
    ids=["unequal length", "padding", "word"],
)
def test_a_walk_ends_at_what_its_prompts_become(stops, settings, sd1, tmp_path):
    common = {"steps": 4, "guidance": 9, "batch_size": 1} | settings
    frames = lab.generate(sd1, walk=stops, frames=3, out=tmp_path / "walk", **common)
    for frame, same in zip((frames[0], frames[2]), lab.generate(sd1, prompt=stops, **common), strict=True):
        assert psnr(frame.image, same.image) > 60


def test_a_walk_makes_nothing_in_the_folder_of_another_run(sd1, tmp_path):
    lab.generate(sd1, prompt="a cat", steps=1, out=tmp_path / "run")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="holds a run with other settings"):
        lab.generate(sd1, walk=STOPS, frames=3, steps=1, out=tmp_path / "run")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"walk": ["a cat"]}, "give two or more"),
        ({"walk": STOPS, "prompt": "a dog"}, "takes the place of prompts"),
        ({"walk": ["a [cat:dog:0.5]", "a hat"]}, "changes over the steps"),
        ({"walk": ["a cat :1.5", "a hat"]}, "a number for guidance"),
        ({"walk": ["a (cat:-1)", "a hat"], "negative_method": "negpip"}, "words of negative weight"),
        ({"walk": STOPS, "frames": 1}, "frames"),
        ({"walk": STOPS, "out": None}, "a walk goes into a folder"),
    ],
)
def test_what_cannot_be_walked_is_refused(settings, said, sd1, tmp_path):
    with pytest.raises(InputError, match=said):
        lab.generate(sd1, **{"steps": 2, "out": tmp_path / "walk"} | settings)
    assert not (tmp_path / "walk").exists()

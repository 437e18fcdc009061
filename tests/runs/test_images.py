"""Images carry what made them, in the form that other tools read."""

import json
import re
from importlib.metadata import version
from threading import Event

import pytest
from PIL import Image
from sd_parsers import ParserManager

import lab
from lab.runs.png import ImageWriters, embedding_hashes, read_parameters, read_record
from lab.sample.record import parameters_text, save_result

RECORD = {
    "seed": 7,
    "prompt": "a (red:1.3) apple,\nwith <cat-toy>",
    "negative_prompt": "blurry: very",
    "model": "file:a, b.safetensors",
    "model_hash": "0123456789abcdef" * 4,
    "scheduler": "dpm++2m",
    "karras": True,
    "steps": 20,
    "guidance": 7.5,
    "guidance_rescale": 0.0,
    "width": 64,
    "height": 96,
    "dialect": "a1111",
    "weighting": "a1111",
    "clip_skip": 1,
    "applied": [
        {
            "side": "positive",
            "name": "cat-toy",
            "sha256": "ab" * 32,
            "vectors": 2,
            "positions": [5, 6],
            "weight": 1.0,
        }
    ],
}


def picture():
    return Image.new("RGB", (64, 96), "teal")


def test_the_text_is_a1111s():
    assert parameters_text(RECORD).splitlines() == [
        "a (red:1.3) apple,",
        "with <cat-toy>",
        "Negative prompt: blurry: very",
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 7, Size: 64x96, "
        'Model hash: 0123456789, Model: "file:a, b.safetensors", Clip skip: 2, TI hashes: "cat-toy: abababababab", '
        'Hashes: {"model": "0123456789", "embed:cat-toy": "ababababab"}, '
        f"Version: lab {version('text-conditioning-lab')}",
    ]


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ('Steps: 2, Size: 8x9, TI hashes: "a: 12ab, b-c: 3", Version: x', {"a": "12ab", "b-c": "3"}),
        ('Steps: 2, Size: 8x9, Hashes: {"model": "ab", "embed:a, b": "12", "lora:c": "3"}', {"a, b": "12"}),
        ('Steps: 2, Size: 8x9, Hashes: {"embed:a": }, Version: x', {}),
        ("Steps: 2, Size: 8x9, Hashes: {}, Version: x", {}),
    ],
)
def test_hashes_of_embeddings_are_read_as_any_tool_writes_them(settings, found):
    parameters = read_parameters(f"a cat\n{settings}")
    assert embedding_hashes(parameters) == found
    assert parameters["Prompt"] == "a cat" and parameters["Steps"] == "2"


@pytest.mark.parametrize(
    "changes, said",
    [
        ({}, None),
        ({"weighting": "a1111-no-norm"}, "Emphasis: No norm"),
        ({"weighting": "ignore"}, "Emphasis: Ignore"),
        ({"weighting": "ignore", "dialect": "plain"}, "Emphasis: None"),
        ({"weighting": "comfy"}, "Weighting: comfy"),
        ({"weighting": "ignore", "prompt": "a red apple"}, None),
        ({"weighting": "ignore", "prompt": "a", "negative_prompt": "(b)"}, "Emphasis: Ignore"),
    ],
)
def test_emphasis_is_written_where_the_web_ui_writes_it(changes, said):
    """A1111 writes it where a text has brackets and it is not Original, which its parser takes for granted."""
    written = parameters_text(RECORD | changes).splitlines()[-1]
    assert (f", {said}, " in written) if said else not re.search("Emphasis|Weighting", written)


def test_other_tools_read_it(tmp_path):
    save_result(tmp_path / "x.png", picture(), RECORD)
    info = ParserManager().parse(tmp_path / "x.png")
    (sampler,) = info.samplers
    assert sampler.name == "DPM++ 2M"
    assert sampler.parameters["steps"] == "20" and sampler.parameters["seed"] == "7"
    assert [prompt.value for prompt in sampler.prompts] == [RECORD["prompt"]]
    assert [prompt.value for prompt in sampler.negative_prompts] == [RECORD["negative_prompt"]]
    assert sampler.model.hash == "0123456789"


def test_an_image_made_by_the_lab_is_read_by_other_tools(sd1, tmp_path):
    (result,) = lab.generate(
        sd1, prompt="a red apple", negative_prompt="dog", seeds=3, steps=2, scheduler="euler"
    )
    save_result(tmp_path / "x.png", result.image, result.record)
    (sampler,) = ParserManager().parse(tmp_path / "x.png").samplers
    assert (sampler.name, sampler.parameters["seed"]) == ("Euler", "3")


def test_the_record_survives_in_the_image_and_beside_it(tmp_path):
    save_result(tmp_path / "x.png", picture(), RECORD)
    assert read_record(tmp_path / "x.png") == RECORD
    assert json.loads((tmp_path / "x.json").read_text()) == RECORD
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "x.png"]


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n truncated"])
def test_files_that_are_no_images_are_one_line(tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(lab.InputError, match="not an image"):
        read_record(tmp_path / "x.png")


def test_images_of_other_tools_have_no_record(tmp_path):
    picture().save(tmp_path / "x.png")
    with pytest.raises(lab.InputError, match="no record"):
        read_record(tmp_path / "x.png")


def test_what_goes_wrong_with_an_image_is_not_lost_where_the_run_fails_otherwise():
    going = Event()

    def full():
        going.wait(5)
        raise lab.InputError("the disk is full")

    with pytest.raises(lab.InputError, match="NaN") as raised, ImageWriters() as writers:
        writers.write(full)
        going.set()
        raise lab.InputError("NaN")
    assert raised.value.__notes__ == ["the disk is full"]
    with pytest.raises(lab.InputError, match="full"), ImageWriters() as writers:
        writers.write(full)

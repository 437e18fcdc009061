"""Each part of a prompt knocked out in turn: the variants, and what the report says of them."""

import pytest
import torch

import lab
from lab.comparing.knock_outs import with_parts
from lab.embeddings.embedding import Embedding
from tests.listening import Heard

TOY = Embedding(
    "toy", {"clip": torch.randn(2, 32, generator=torch.Generator().manual_seed(0))}, kind="concept"
)


@pytest.fixture
def knock_out(config):
    """Builds a comparison that knocks out each part of a prompt."""

    def build(**settings):
        usual = {"prompts": ["a red apple"], "axes": None, "knock_out": "prompt", "seeds": "1-2"}
        return config(**usual | settings)

    return build


def test_each_part_in_turn_and_what_it_does(sd1, knock_out):
    heard = Heard()
    report = lab.compare(sd1, knock_out(metrics=["ssim_baseline", "clip_text"]), listener=heard)
    parts = ["a", "red", "apple", "[end]", "[padding]"]
    assert [row["variant"] for row in report.effects][::2] == [f"knock_out={part}" for part in parts]
    assert any("of 5 parts do" in note for note in heard.notes)
    page = report.page.read_text(encoding="utf-8")
    assert "What each part of the prompt does" in page and "correlate by" in page
    assert page.count('class="double"') == 5 and "the two agree" in page
    again = lab.CompareConfig.read(report.folder / "config.yaml", {"out": report.folder.parent / "again"})
    assert again.axes == {"knock_out": [None, *parts]}


def test_words_and_embeddings_left_out_of_the_text(sd1, knock_out):
    prompts = ["a red apple, <toy>"]
    settings = knock_out(knock_out_by="text", prompts=prompts, metrics=["ssim_baseline"])
    report = lab.compare(sd1, settings, embeddings=[TOY])
    assert [row["variant"] for row in report.effects] == [
        f"left_out={part}" for part in ("a", "red", "apple", "<toy>")
    ]
    made = sorted(path.stem for path in (report.folder / "cells").glob("*-seed1-*.png"))
    assert made[1].endswith("red-apple-toy") and made[-1].endswith("a-red-apple")


def test_of_several_prompts_what_all_have(sd1, knock_out):
    config = with_parts(sd1, knock_out(prompts=["a red apple", "a blue apple"]))
    assert config.axes["knock_out"] == [None, "a", "apple", "[end]", "[padding]"]
    with pytest.raises(lab.InputError, match="no word in common"):
        with_parts(sd1, knock_out(prompts=["red apple", "blue cat"], knock_out_by="text"))


def test_images_are_to_show_the_whole_prompt_whatever_is_left_out(knock_out):
    from lab.comparing.experiment import Experiment

    axes = {"left_out": [None, "red"]}
    experiment = Experiment(knock_out(axes=axes, knock_out=None))
    assert {cell.words for cell in experiment.cells} == {"a red apple"}
    assert {cell.prompt for cell in experiment.cells} == {"a red apple", "a apple"}

"""Files that somebody put into a run's folder, and errors that are not about writing there."""

import json
import shutil

import pytest
import torch

import lab
from lab.errors import InputError
from lab.training.objectives.denoising import Concept
from tests.training.test_worst import making  # noqa: F401  # a fixture


def test_they_neither_end_a_run_nor_are_taken_for_its_own(sd1, changed, tmp_path):
    whole = lab.train(sd1, changed(out=tmp_path / "whole"))
    config = changed(preview_every=2, preview_seeds="1", preview_steps=2, stop="4")
    for folder in ("previews", "checkpoints"):
        (config.out / folder / "a folder.png").mkdir(parents=True)
        (config.out / folder / "notes.txt").write_text("mine")
    picture = next(config.images.glob("*.png"))
    for name in ("holiday.png", "000002.png", "2-of-3.png", "000002-.png"):
        shutil.copy(picture, config.out / "previews" / name)
    lab.train(sd1, config)
    progress = config.out / "progress.jsonl"
    lines = progress.read_bytes().splitlines(keepends=True)
    foreign = [b"\n", b"[]\n", b'{"note": 1}\n', b"\xff\xfe\n", b"mine\n"]
    progress.write_bytes(b"".join(line for pair in zip(foreign, [*lines, b""], strict=True) for line in pair))
    resumed = lab.train(sd1, resume=config.out, stop="never")
    assert torch.equal(resumed.vectors["clip"], whole.vectors["clip"])
    assert [json.loads(line)["step"] for line in progress.read_text().splitlines()] == [1, 2, 3, 4, 5, 6]
    page = (config.out / "index.html").read_text()
    assert "previews/000004-prompt1-seed1.png" in page and "holiday" not in page and "2-of-3" not in page
    assert (config.out / "previews" / "holiday.png").is_file()


def test_the_worst_images_are_those_that_the_run_made(sd1, making, tmp_path, images):  # noqa: F811
    whole = lab.train(sd1, making(out=tmp_path / "whole"))
    config = making()
    (config.out / "worst" / "a folder").mkdir(parents=True)
    shutil.copy(images / "toy-0.png", config.out / "worst" / "holiday.png")
    shutil.copytree(tmp_path / "whole" / "made", config.out / "made")
    shutil.copy(images / "toy-0.png", config.out / "made" / "holiday.png")
    (config.out / "made" / "scores.json").write_text("[]")
    earlier = next((config.out / "made").glob("*-seed*.png"))
    for path in (earlier, earlier.with_suffix(".json")):
        shutil.copy(path, config.out / "worst")
    learned = lab.train(sd1, config)
    assert torch.equal(learned.vectors["clip"], whole.vectors["clip"])
    assert (config.out / "worst" / "holiday.png").is_file() and (config.out / "worst" / "a folder").is_dir()
    assert len(list((config.out / "worst").glob("*-seed*.png"))) == config.worst


@pytest.mark.parametrize("number", [13, 28])
def test_an_error_in_a_step_is_not_blamed_on_the_progress_file(number, sd1, config, monkeypatch):
    def fail(self, examples):
        raise OSError(number, "of the objective")

    monkeypatch.setattr(Concept, "losses", fail)
    with pytest.raises(OSError, match="of the objective"):
        lab.train(sd1, config)


def test_a_progress_file_that_cannot_be_written_is_told_as_such(sd1, config):
    (config.out / "progress.jsonl").mkdir(parents=True)
    with pytest.raises(InputError, match=r"progress\.jsonl: cannot write"):
        lab.train(sd1, config)

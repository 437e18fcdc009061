"""Killed, interrupted, disk full: what was learned is kept, and goes on to the same bits."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import safetensors.torch
import torch

import lab
from lab.errors import InputError
from lab.training.config import TrainConfig
from lab.training.run_folder import TrainingFolder, run_config
from tests.paths import REPOSITORY

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(REPOSITORY)}


@contextmanager
def started(config, model):
    """`lab train` as a process of its own, gone when the block ends."""
    yaml = config.out.with_suffix(".yaml")
    yaml.write_text(
        config.model_copy(update={"model": str(model), "device": "cpu"}).to_yaml(), encoding="utf-8"
    )
    command = [sys.executable, "-m", "lab", "train", "--config", str(yaml)]
    process = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_step(config, step, process):
    progress = config.out / "progress.jsonl"
    for _ in range(6000):
        if progress.is_file() and progress.read_text().count("\n") >= step:
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    raise AssertionError("the run never came that far")


@pytest.mark.parametrize(("number", "optimizer"), [(signal.SIGKILL, "shampoo"), (signal.SIGINT, "adamw")])
def test_a_process_that_died_is_resumed_to_the_bit(
    number, optimizer, sd1, sd1_folder, changed, tmp_path, heard
):
    settings = {
        "steps": 40,
        "save_every": 4,
        "warmup": 3,
        "shuffle_tags": True,
        "optimizer": optimizer,
    }
    whole = lab.train(sd1, changed(**settings, out=tmp_path / "whole"))
    config = changed(**settings)
    with started(config.model_copy(update={"steps": 39}), sd1_folder) as process:
        wait_for_step(config, 9, process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130), errors
    done = len((config.out / "progress.jsonl").read_text().splitlines())
    resumed = lab.train(sd1, TrainConfig(resume=config.out, steps=40), listener=heard)
    at = int(heard.notes[0].split("step ")[1].split()[0])
    assert done - 4 <= at <= done and (number == signal.SIGKILL or at == done)
    assert torch.equal(resumed.vectors["clip"], whole.vectors["clip"])
    lines = [json.loads(line) for line in (config.out / "progress.jsonl").read_text().splitlines()]
    expected = [json.loads(line) for line in (tmp_path / "whole" / "progress.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [
        (line["step"], line["loss"]) for line in expected
    ]


def stopped(bundle, changed, **settings):
    """A run of 6 steps that has done 4."""
    config = changed(stop="4", **settings)
    lab.train(bundle, config)
    return config


def test_stopping_and_resuming_in_one_process(sd1, changed, tmp_path):
    whole = lab.train(sd1, changed(out=tmp_path / "whole"))
    config = stopped(sd1, changed)
    resumed = lab.train(sd1, TrainConfig(resume=config.out, stop="never"))
    assert torch.equal(resumed.vectors["clip"], whole.vectors["clip"])


def test_changed_data_and_models_are_refused_by_name(sd1, sd2, changed, images):
    config = stopped(sd1, changed)
    with pytest.raises(InputError, match="model changed"):
        lab.train(sd2, TrainConfig(resume=config.out, stop="never"))
    (images / "toy-1.txt").write_text("another <cat-toy>")
    (images / "toy-2.png").rename(images / "toy-3.png")
    with pytest.raises(InputError, match=r"toy-1\.png changed, toy-2\.png is missing, toy-3\.png is new"):
        lab.train(sd1, TrainConfig(resume=config.out, stop="never"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"seed": 3}, "seed: the run .* has 0"), ({}, "no steps left, 4 of 4"), ({"vectors": 3}, "vectors")],
)
def test_what_would_make_it_another_run_is_refused(sd1, changed, settings, words):
    config = stopped(sd1, changed)
    with pytest.raises(InputError, match=words):
        lab.train(sd1, TrainConfig(resume=config.out, **settings))


def test_a_checkpoint_of_another_run_or_a_damaged_one(sd1, changed, tmp_path):
    config = stopped(sd1, changed)
    other = stopped(sd1, changed, vectors=3, out=tmp_path / "other")
    state = TrainingFolder(config.out).state
    state.write_bytes(TrainingFolder(other.out).state.read_bytes())
    with pytest.raises(
        InputError, match="another run: it holds cat-toy/clip 3 x 32 where cat-toy/clip 2 x 32"
    ):
        lab.train(sd1, TrainConfig(resume=config.out, stop="never"))
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(InputError, match="damaged"):
        lab.train(sd1, TrainConfig(resume=config.out, stop="never"))
    with pytest.raises(InputError, match="no training run"):
        lab.train(sd1, TrainConfig(resume=tmp_path))
    for text in ("", "prompt: [a cat]\ndialect: a1111\n"):  # of images
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(InputError, match="no training run, as its config"):
            lab.train(sd1, TrainConfig(resume=tmp_path))


def test_a_folder_in_use_is_refused_and_a_dead_lock_is_not(sd1, config):
    folder = TrainingFolder(config.out)
    with folder.locked(), pytest.raises(InputError, match="in use by another process"):
        lab.train(sd1, config)
    lab.train(sd1, config)


def test_a_full_disk_is_one_line_and_loses_little(sd1, changed, monkeypatch, heard):
    from lab.training import checkpoint

    save = checkpoint.safetensors.torch.save_file
    written = []

    def full(tensors, path, metadata=None):
        written.append(path)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        save(tensors, path, metadata)

    monkeypatch.setattr(checkpoint.safetensors.torch, "save_file", full)
    with pytest.raises(InputError, match="disk is full"):
        lab.train(sd1, changed())
    monkeypatch.undo()
    lab.train(sd1, TrainConfig(resume=changed().out), listener=heard)
    assert "Going on at step 2" in heard.notes[0]
    assert lab.read_embedding(changed().out / "cat-toy.safetensors").count == 2


@pytest.mark.parametrize("resumed", [True, False])
def test_a_disk_that_was_full_before_the_first_checkpoint_is_no_dead_end(sd1, changed, monkeypatch, resumed):
    from lab.training import journal

    def full(*_):
        raise InputError("the disk is full; free some space and run the same command again")

    monkeypatch.setattr(journal, "save_checkpoint", full)
    with pytest.raises(InputError, match="disk is full"):
        lab.train(sd1, changed(steps=2))
    monkeypatch.undo()
    again = TrainConfig(resume=changed().out) if resumed else changed(steps=2)
    assert lab.train(sd1, again).count == 2
    assert [line["step"] for line in TrainingFolder(changed().out).read_progress()] == [1, 2]


def edited(folder, change):
    """The checkpoint of a run with other contents."""
    tensors, metadata = {}, {}
    with safetensors.safe_open(folder.state, "pt") as file:
        metadata |= file.metadata()
        tensors |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    state = json.loads(metadata["state"])
    change(state, tensors, metadata)
    safetensors.torch.save_file(tensors, folder.state, metadata | {"state": json.dumps(state)})


def test_a_checkpoint_that_came_back_otherwise_says_what(sd1, changed):
    folder = TrainingFolder(stopped(sd1, changed).out)
    sound = folder.state.read_bytes()
    damages = [
        (lambda state, *_: state.pop("evaluations"), "evaluations: field required"),
        (lambda state, *_: state["evaluations"][0][1].pop("loss"), "an evaluation without its loss"),
        (lambda state, *_: state.update(step=-1), "step: input should be greater"),
        (lambda state, *_: state.update(step="x"), "step: input should be a valid integer"),
        (
            lambda _, tensors, __: tensors.pop("optimizer/mean/cat-toy/clip"),
            "mean/cat-toy/clip of its optimizer",
        ),
        (
            lambda _, tensors, __: tensors.update({"optimizer/mean/cat-toy/clip": torch.ones(3)}),
            "another shape",
        ),
        (lambda _, tensors, __: tensors.update({"best/cat-toy/clip": torch.ones(3)}), "its best vectors"),
        (lambda _, __, metadata: metadata.update(settings="[" * 9000), "nested too deeply|damaged"),
        (lambda _, __, metadata: metadata.pop("settings"), "damaged"),
        (
            lambda _, tensors, __: tensors.update({k: v.to(torch.int8) for k, v in tensors.items()}),
            "damaged",
        ),
    ]
    for change, said in damages:
        folder.state.write_bytes(sound)
        edited(folder, change)
        with pytest.raises(InputError, match=said):
            lab.train(sd1, TrainConfig(resume=folder.path, stop="never"))
    folder.state.write_bytes(sound)
    folder.config.write_text(folder.config.read_text().replace("seed: 0", "seed: 7"))
    with pytest.raises(
        InputError, match=r"seed: 7 in config\.yaml, where .* was learned with 0; put it back"
    ):
        lab.train(sd1, TrainConfig(resume=folder.path, stop="never"))


def test_embeddings_that_were_deleted_are_written_again(sd1, changed):
    config = changed(steps=2)
    first = lab.train(sd1, config)
    (config.out / "cat-toy.safetensors").unlink()
    again = lab.train(sd1, TrainConfig(resume=config.out))
    assert torch.equal(first.vectors["clip"], again.vectors["clip"])


def test_images_beside_the_runs_own_pictures_are_refused_at_once(changed, images):
    with pytest.raises(InputError, match="is the folder of the images"):
        run_config(changed(out=images))

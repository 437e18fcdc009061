"""Two processes share one run, and what comes out is what one makes."""

import csv
import os
import subprocess
import sys

import numpy as np
import pytest

import lab
from lab.images import open_image
from tests.comparing.conftest import PROMPTS
from tests.paths import REPOSITORY

ASKED = [word for prompt in PROMPTS for word in ("--prompt", prompt)] + ["--seeds", "1-3", "--steps", "2"]


def launched(command, out, sd1_folder, *more):
    """What two processes print that carry out a command together."""
    arguments = [command, "--model", str(sd1_folder), "--device", "cpu", "--out", str(out), *ASKED, *more]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "lab"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, *launch, *arguments],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_two_processes_find_what_one_finds(tmp_path, sd1, sd1_folder, clip_folder, config):
    more = ("--clip", str(clip_folder), "--axis", "negative_prompt=,blurry")
    said = launched("compare", tmp_path / "two", sd1_folder, *more)
    lab.compare(sd1, config(out=tmp_path / "one"))
    one, two = (table(tmp_path / name / "effects.csv") for name in ("one", "two"))
    assert len(one) == len(two) == 6
    for left, right in zip(one, two, strict=True):
        assert (left["variant"], left["metric"], left["n"]) == (right["variant"], right["metric"], right["n"])
        assert float(left["difference"]) == pytest.approx(float(right["difference"]), rel=0.02, abs=2e-3)
    assert len(list((tmp_path / "two" / "cells").glob("*.png"))) == 12
    assert said.count("Open file:") == 1


def test_two_processes_make_the_images_that_one_makes(tmp_path, sd1, sd1_folder):
    said = launched("generate", tmp_path / "two", sd1_folder)
    assert said == f"6 images in {tmp_path / 'two'}; index.html shows them\n"
    made = [np.asarray(open_image(path), dtype=int) for path in sorted((tmp_path / "two").glob("0*.png"))]
    alone = lab.generate(sd1, prompt=PROMPTS, seeds="1-3", steps=2)
    for shared, own in zip(made, alone, strict=True):
        assert abs(shared - np.asarray(own.image, dtype=int)).max() <= 1

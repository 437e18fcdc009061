"""Two processes with the same global batch learn what one learns."""

import os
import subprocess
import sys

import torch

import lab
from lab.training.run import train
from tests.paths import REPOSITORY

TOLERANCE = 1e-5
"""In vector values of about 0.02; gradients are summed in another order."""


def test_two_processes_learn_what_one_learns(sd1, sd1_folder, changed, tmp_path):
    settings = {"batch_size": 3, "steps": 4, "save_every": 2}
    alone = train(sd1, changed(**settings, out=tmp_path / "alone"))
    config = changed(**settings, model=str(sd1_folder), device="cpu")
    yaml = tmp_path / "run.yaml"
    yaml.write_text(config.to_yaml(), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = subprocess.run(
        [*command, "-m", "lab", "train", "--config", str(yaml)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("vectors in") == 1, "only one process speaks"
    together = lab.read_embedding(config.out / "cat-toy.safetensors")
    torch.testing.assert_close(together.vectors["clip"], alone.vectors["clip"], atol=TOLERANCE, rtol=0)
    assert len((config.out / "progress.jsonl").read_text().splitlines()) == 4

"""Two processes with the same global batch learn what one learns."""

import os
import subprocess
import sys

import pytest
import torch

import lab
from tests.paths import REPOSITORY

TOLERANCE = 1e-5
"""In vector values of about 0.02; gradients are summed in another order."""


def by_reward(tmp_path, clip_folder):
    """Settings of a run without images."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red apple\na blue cat\n", encoding="utf-8")
    settings = {"objective": "reward", "images": None, "reward": ["clip_text"], "prompt_file": prompts}
    settings |= {"clip": clip_folder, "guidance": 3.0, "scheduler": "ddim"}
    return settings | {"sampling_steps": 2, "gradient_steps": 2}


@pytest.mark.parametrize(("objective", "optimizer"), [("concept", "shampoo"), ("reward", "adamw")])
def test_two_processes_learn_what_one_learns(
    objective, optimizer, sd1, sd1_folder, clip_folder, changed, tmp_path
):
    settings = {"batch_size": 3, "steps": 4, "save_every": 2, "optimizer": optimizer}
    if objective == "reward":
        settings |= by_reward(tmp_path, clip_folder)
    alone = lab.train(sd1, changed(**settings, out=tmp_path / "alone"))
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

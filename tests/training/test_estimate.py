"""Estimates of memory: what is kept for the way back, against what is free."""

from dataclasses import replace

import pytest
import torch

from lab.errors import InputError
from lab.training.estimate import check_memory, peak_memory


def test_attention_keeps_no_scores(sd1, changed):
    """Kernels that attend in pieces keep as much again for four times the places, not four times as much again."""
    small, middle, large = (peak_memory(sd1, changed(resolution=side)) for side in (128, 256, 512))
    assert large - middle < 4.5 * (middle - small)


def test_what_pytorch_holds_back_of_a_gpu_is_free(sd1, config, monkeypatch):
    there = replace(sd1, device=torch.device("cuda"))
    gpu = {"mem_get_info": (1000, 2**40), "memory_reserved": 2**40, "memory_allocated": 2**39}
    for name in gpu:
        monkeypatch.setattr(f"torch.cuda.{name}", lambda _device, name=name: gpu[name])
    monkeypatch.setattr("lab.training.estimate._capacity", lambda _bundle: 2**40)
    check_memory(there, config)
    gpu["memory_allocated"] = 2**40
    with pytest.raises(InputError, match="is free"):
        check_memory(there, config)

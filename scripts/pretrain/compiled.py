"""Compile one training step of the U-Net and time it beside the plain one; the cache on disk keeps what it compiled."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

from scripts.pretrain.common import CONFIGS, read_config, write_json
from scripts.pretrain.unet import build


def timed(step: Callable[[], None], count: int = 10) -> float:
    """Milliseconds a step, after one that does not count."""
    step()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(count):
        step()
    torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began) / count


def main() -> None:
    """Write both times and how long compiling took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    width = read_config(CONFIGS / "clip.yaml")["text"]["hidden_size"]
    unet = build(read_config(CONFIGS / "unet.yaml"), width).to("cuda")
    noisy = torch.randn(args.batch, unet.config.in_channels, 16, 16, device="cuda")
    noisy = noisy.contiguous(memory_format=torch.channels_last)
    steps = torch.arange(args.batch, device="cuda") % 1000
    states = torch.randn(args.batch, 77, width, device="cuda")

    def step_of(forward: Callable[..., object]) -> Callable[[], None]:
        def step() -> None:
            with torch.autocast("cuda", torch.bfloat16):
                loss = forward(noisy, steps, encoder_hidden_states=states).sample.float().square().mean()
            loss.backward()
            unet.zero_grad()

        return step

    plain = timed(step_of(unet))
    began = time.perf_counter()
    compiled = timed(step_of(torch.compile(unet)))
    seconds = time.perf_counter() - began
    write_json(args.out, {"plain_ms": plain, "compiled_ms": compiled, "compiling_s": seconds})


if __name__ == "__main__":
    main()

"""Try the training steps of a stage on random data, and time them: as they are, recorded as a CUDA graph
(`recorded.py`), compiled, and both; while other stages learn. The cache on disk keeps what was compiled.

Whatever fails has no time in the file that is written, which is so again after each of the four.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
import traceback
from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scripts.pretrain import unet, vae
from scripts.pretrain.catalogue import Split
from scripts.pretrain.clip import FOLDER as CLIP
from scripts.pretrain.common import CONFIGS, merged, read_config, write_json
from scripts.pretrain.data import Data
from scripts.pretrain.latents import Encoded
from scripts.pretrain.loop import Objective, Run, update
from scripts.pretrain.recorded import PLAIN, Recorded

WAYS = {
    "plain": {"recorded": False, "compile": False},
    "recorded": {"recorded": True, "compile": False},
    "compiled": {"recorded": False, "compile": True},
    "compiled and recorded": {"recorded": True, "compile": True},
}
"""The ways to run a stage's steps, as its YAML says them."""


def of_unet(config: dict[str, Any], device: str, folder: Path) -> tuple[Run, Objective]:
    """The U-Net's run, on 256 random captions of random latents.

    They are drawn on the CPU: after a step that could not be recorded, the card's own generator draws no more.
    """
    width, count = read_config(CONFIGS / "clip.yaml")["text"]["hidden_size"], 256
    encoded = Encoded(
        latents=torch.randn(count, config["latent_channels"], 16, 16).half().to(device),
        states=torch.randn(count + 1, 77, width).half().to(device),
        scaling=1.0,
        captions=torch.zeros(count, 20, dtype=torch.int16, device=device),
        ends=torch.full((count,), 10, device=device),
    )
    return unet.prepare(config, encoded, device, folder)


def of_autoencoder(config: dict[str, Any], device: str, folder: Path) -> tuple[Run, Objective]:
    """The autoencoder's or its decoder's run, from random weights on 64 random images."""
    images = torch.randint(256, (64, 3, 128, 128), dtype=torch.uint8).to(device)
    random_images = Data(images, [], ["train"] * len(images), {}, Split((), (), ()))
    if not (CLIP / "sight.pt").exists():
        config = config | {"perception": 0}
    return vae.prepare(config | {"warm_start": None}, random_images, device, folder)


STAGES: dict[str, Callable[[dict[str, Any], str, Path], tuple[Run, Objective]]] = {
    "vae": of_autoencoder,
    "decoder": of_autoencoder,
    "unet": of_unet,
}


def timed(step: Callable[[], Tensor], rounds: int = 5, count: int = 4) -> float:
    """Milliseconds a step, in the best of some rounds: what else runs on the card only makes it slower."""
    found = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(count):
            step()
        torch.cuda.synchronize()
        found.append(1000 * (time.perf_counter() - began) / count)
    return min(found)


def choices(objective: Objective) -> list[Hashable]:
    """What the objective chooses in the end, the most frequent first."""
    found = [objective.choose(0.99, random.Random(seed)) for seed in range(200)]
    return sorted(set(found), key=found.count, reverse=True)


def rehearse(name: str, config: dict[str, Any], device: str) -> float:
    """Milliseconds of a step of a stage, once every kind of step has been made."""
    with tempfile.TemporaryDirectory() as folder:
        run, objective = STAGES[name](config, device, Path(folder))
    advance: Callable[[Hashable], Tensor] = partial(update, run, objective)
    if run.recorded:
        advance = Recorded(advance, run.generator)
    kinds = choices(objective)
    for choice in reversed(kinds):
        for _ in range(PLAIN + 1):
            advance(choice)
    return timed(partial(advance, kinds[0]))


def main() -> None:
    """Write the times of one stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--plan", type=Path, default=CONFIGS / "on_gpu.yaml")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    changes = read_config(args.plan)["stages"].get(args.stage, {})
    config = merged(read_config(CONFIGS / f"{args.stage}.yaml"), changes)
    times = {}
    for way, settings in WAYS.items():
        began = time.monotonic()
        try:
            times[way] = rehearse(args.stage, config | settings, "cuda")
        except Exception:
            traceback.print_exc()
            continue
        print(f"{args.stage}, {way}: {times[way]:.1f} ms, after {time.monotonic() - began:.0f} s", flush=True)
        write_json(args.out, times)


if __name__ == "__main__":
    main()

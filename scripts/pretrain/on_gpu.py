"""Train all that the model consists of in a few minutes of a GPU, on a machine without a network.

    python -m scripts.pretrain.on_gpu --minutes 9 --cargo outputs/pretrain/cargo --out FOLDER

What was packed by `scripts.pretrain.cargo` is unpacked, the scenes are painted on all cores, and the stages run one
after the other, each for its share of the time, the U-Net last with all that is left. Weights that came along are gone
on from; where a U-Net did, it has all the time, since what it learnt from must stay as it is. Before the U-Net's stage,
and at every checkpoint of it, the folder holds all there is. Other processes try meanwhile which way to run a stage's
steps is the fastest (`rehearse.py`). A stage that runs out of memory begins again with half the batch; one that fails
otherwise begins again as it is, and then is left out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from scripts.pretrain import cargo, clip, data, judge, latents, quality, rehearse, unet, vae, vision
from scripts.pretrain.common import CONFIGS, WORK, merged, read_config

Stage = Callable[[dict[str, Any], data.Data, str, float | None], None]
STAGES: dict[str, Stage] = {
    "clip": clip.train_text,
    "vae": vae.train_autoencoder,
    "decoder": vae.train_autoencoder,
    "vision": vision.train_vision,
    "judge": judge.train_judge,
    "quality": quality.train_quality,
}


@dataclass
class Session:
    """One stretch on one machine: until when, where to, and what the YAML says of each stage."""

    plan: dict[str, Any]
    device: str
    out: Path
    ends: float  # time.monotonic() by which everything is packed
    data: data.Data = field(init=False)
    rehearsals: dict[str, subprocess.Popen[bytes]] = field(
        default_factory=dict
    )  # of stages, in other processes

    def left(self) -> float:
        """Minutes until the end, but for those that packing and the last look take."""
        return (self.ends - time.monotonic()) / 60 - self.plan["reserve"]

    def pack(self) -> None:
        """Hand over all there is so far."""
        cargo.pack(WORK, self.out)

    def settings(self, name: str, minutes: float, divisor: int) -> dict[str, Any]:
        """The stage's YAML with what `plan` changes of it, the whole budget in these minutes, a part of the batch."""
        config = merged(read_config(CONFIGS / f"{name}.yaml"), self.plan["stages"].get(name, {}))
        for part in config.values() if name == "quality" else (config,):
            part["budget"] |= {"minutes": minutes, "save_every": max(minutes / 2, 0.75)}
            part["batch"] //= divisor
        if "warm_start" in config and (WORK / name / "average").exists():
            config["warm_start"] = f"outputs/pretrain/{name}/average"
        return config

    def attempt(self, name: str, learn: Stage) -> bool:
        """Whether a stage was done: in the fastest way that was found or, where that fails, as it is."""
        print(f"--- {name}", flush=True)
        if name not in rehearse.STAGES:
            return self.learnt(name, learn, {})
        ways = dict.fromkeys([self.fastest(name), "plain"])
        return any(self.learnt(name, learn, rehearse.WAYS[way]) for way in ways)

    def learnt(self, name: str, learn: Stage, way: dict[str, Any]) -> bool:
        """Whether that was done in one way; out of memory, it begins again with half the batch, twice at most."""
        for divisor in (1, 2, 4):
            minutes = min(self.plan["minutes"].get(name, math.inf), self.left())
            if minutes <= 0:
                return False
            (WORK / name / "checkpoint.pt").unlink(missing_ok=True)  # anew, from the average if there is one
            try:
                learn(self.settings(name, minutes, divisor) | way, self.data, self.device, minutes)
                return True
            except torch.OutOfMemoryError:
                print(f"{name}: out of memory with 1/{divisor} of the batch", flush=True)
                torch.cuda.empty_cache()
            except Exception:
                traceback.print_exc()
                return False
        return False

    def rehearse(self, name: str) -> None:
        """Let another process try the ways to run a stage's steps, and time them."""
        times_of(name).unlink(missing_ok=True)  # another card's
        command = [sys.executable, "-m", "scripts.pretrain.rehearse", name, "--out", str(times_of(name))]
        self.rehearsals[name] = subprocess.Popen(["nice", *command])

    def fastest(self, name: str) -> str:
        """The fastest way to run a stage's steps, of those that were timed by now."""
        if name not in self.rehearsals:
            return "plain"
        self.rehearsals[name].kill()
        self.rehearsals[name].wait()
        times = json.loads(times_of(name).read_text()) if times_of(name).exists() else {"plain": 0.0}
        print(f"milliseconds a step: {times}", flush=True)
        return min(times, key=times.__getitem__)

    def run(self, name: str) -> None:
        """One stage but the U-Net's."""
        if name == "vae":
            shutil.rmtree(WORK / "decoder", ignore_errors=True)  # it belongs to another encoder
        self.attempt(name, STAGES[name])

    def run_unet(self) -> None:
        """The last stage: encode, then learn for all the time that is left."""
        changes = self.plan["stages"].get("latents", {})
        encoded = latents.encode(read_config(CONFIGS / "latents.yaml") | changes, self.data, self.device)

        def learn(config: dict[str, Any], data: data.Data, device: str, minutes: float | None) -> None:
            unet.train_unet(config, encoded, device, minutes, self.pack)

        self.attempt("unet", learn)


def times_of(name: str) -> Path:
    """Where a stage's rehearsal writes its times."""
    return WORK / f"rehearsal-{name}.json"


def paint(folder: Path) -> None:
    """The scenes of the drawings that came along."""
    config = read_config(CONFIGS / "data.yaml")
    chosen, _ = data.read_split(WORK / "split.json")
    icons = cargo.read_icons(folder / cargo.ICONS)
    data.paint_all(data.scenes(chosen, icons, config), icons, config["size"], WORK)


def main() -> None:
    """Run all stages."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=9, help="from start to end, everything packed")
    parser.add_argument("--cargo", type=Path, default=cargo.FOLDER, help="what `cargo pack` wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for what is to come back")
    parser.add_argument("--config", type=Path, default=CONFIGS / "on_gpu.yaml")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    plan = read_config(args.config)
    session = Session(plan, args.device, args.out, began + 60 * args.minutes)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(WORK / "inductor"))
    torch.backends.cudnn.benchmark = True
    cargo.unpack(args.cargo, WORK)
    order = [] if (WORK / cargo.UNET).exists() else plan["order"]
    if args.device == "cuda":
        for name in rehearse.STAGES.keys() & {*order, "unet"}:
            session.rehearse(name)
    paint(args.cargo)
    session.data = data.load(args.device)
    for name in order:
        session.run(name)
        print(f"{(time.monotonic() - began) / 60:.2f} minutes", flush=True)
    session.pack()
    session.run_unet()
    print(f"done after {(time.monotonic() - began) / 60:.2f} minutes", flush=True)


if __name__ == "__main__":
    main()

"""Train all that the model consists of in a few minutes of a GPU, on a machine without a network.

    python -m scripts.pretrain.on_gpu --minutes 9 --cargo outputs/pretrain/cargo --out FOLDER

What was packed by `scripts.pretrain.cargo` is unpacked, the scenes are painted on all cores, and the stages run one
after the other, each for its share of the time, the U-Net last with all that is left. Weights that came along are gone
on from; where a U-Net did, it has all the time, since what it learnt from must stay as it is. Before the U-Net's stage,
and at every checkpoint of it, the folder holds all there is. A stage that runs out of memory begins again with half
the batch; one that fails otherwise is left out.
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

from scripts.pretrain import cargo, clip, data, judge, latents, quality, unet, vae, vision
from scripts.pretrain.common import CONFIGS, WORK, read_config

Stage = Callable[[dict[str, Any], data.Data, str, float | None], None]
STAGES: dict[str, Stage] = {
    "clip": clip.train_text,
    "vae": vae.train_autoencoder,
    "decoder": vae.train_autoencoder,
    "vision": vision.train_vision,
    "judge": judge.train_judge,
    "quality": quality.train_quality,
}
SPEED = WORK / "compiled.json"


@dataclass
class Session:
    """One stretch on one machine: until when, where to, and what the YAML says of each stage."""

    plan: dict[str, Any]
    device: str
    out: Path
    ends: float  # time.monotonic() by which everything is packed
    data: data.Data = field(init=False)

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
        """Whether a stage was done; out of memory, it begins again with half the batch, twice at most."""
        print(f"--- {name}", flush=True)
        for divisor in (1, 2, 4):
            minutes = min(self.plan["minutes"].get(name, math.inf), self.left())
            if minutes <= 0:
                return False
            (WORK / name / "checkpoint.pt").unlink(missing_ok=True)  # anew, from the average if there is one
            try:
                learn(self.settings(name, minutes, divisor), self.data, self.device, minutes)
                return True
            except torch.OutOfMemoryError:
                print(f"{name}: out of memory with 1/{divisor} of the batch", flush=True)
                torch.cuda.empty_cache()
            except Exception:
                traceback.print_exc()
                return False
        return False

    def run(self, name: str) -> None:
        """One stage but the U-Net's."""
        if name == "vae":
            shutil.rmtree(WORK / "decoder", ignore_errors=True)  # it belongs to another encoder
        self.attempt(name, STAGES[name])

    def run_unet(self, compiled: bool) -> None:
        """The last stage: encode, then learn for all the time that is left; if that fails compiled, as it is."""
        changes = self.plan["stages"].get("latents", {})
        encoded = latents.encode(read_config(CONFIGS / "latents.yaml") | changes, self.data, self.device)

        def learn(config: dict[str, Any], data: data.Data, device: str, minutes: float | None) -> None:
            unet.train_unet(config, encoded, device, minutes, self.pack)

        def learn_compiled(
            config: dict[str, Any], data: data.Data, device: str, minutes: float | None
        ) -> None:
            learn(config | {"compile": True}, data, device, minutes)

        if not (compiled and self.attempt("unet", learn_compiled)):
            self.attempt("unet", learn)


def merged(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`config` with `changes`, folder by folder."""
    found = dict(config)
    for name, value in changes.items():
        found[name] = merged(config[name], value) if isinstance(value, dict) and name in config else value
    return found


def unpack(folder: Path) -> None:
    """What came along, and the scenes painted of it."""
    cargo.unpack(folder, WORK)
    config = read_config(CONFIGS / "data.yaml")
    chosen, _ = data.read_split(WORK / "split.json")
    icons = cargo.read_icons(folder / cargo.ICONS)
    data.paint_all(data.scenes(chosen, icons, config), icons, config["size"], WORK)


def compile_ahead(batch: int) -> subprocess.Popen[bytes]:
    """Let another process compile the U-Net's step and time it, while the stages before are learning: its cache on disk
    makes the compilation here a short one."""
    command = [sys.executable, "-m", "scripts.pretrain.compiled", "--batch", str(batch), "--out", str(SPEED)]
    return subprocess.Popen(["nice", *command])


def worth_compiling(ahead: subprocess.Popen[bytes]) -> bool:
    """Whether that process is done, without a failure, and what it compiled is the faster."""
    if ahead.poll() is None:
        ahead.kill()
        print("compiling took too long: the U-Net runs as it is", flush=True)
        return False
    if ahead.returncode or not SPEED.exists():
        return False
    speed = json.loads(SPEED.read_text())
    print(f"a step of the U-Net: {speed}", flush=True)
    return speed["compiled_ms"] < 0.9 * speed["plain_ms"]


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
    ahead = compile_ahead(plan["stages"]["unet"]["batch"]) if args.device == "cuda" else None
    unpack(args.cargo)
    session.data = data.load(args.device)
    for name in () if (WORK / cargo.UNET).exists() else plan["order"]:
        session.run(name)
        print(f"{(time.monotonic() - began) / 60:.2f} minutes", flush=True)
    session.pack()
    session.run_unet(compiled=ahead is not None and worth_compiling(ahead))
    print(f"done after {(time.monotonic() - began) / 60:.2f} minutes", flush=True)


if __name__ == "__main__":
    main()

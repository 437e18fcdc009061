"""Measures the memory that commands take on a CPU with models of SD 1.5's and SDXL's size.

    python -m scripts.bench_memory [--family sd1 sdxl] [--command encode train] [--side 512] [--models FOLDER]

The models have the published architectures and random weights, stored in float16 (SD 1.5 2 GB, SDXL 7 GB on disk);
they are made once and kept. Each command is a process of its own; printed is the most memory that was resident in it at
once, which counts pages of weight files that are mapped, beside what the weights take as they are computed with.
"""

import argparse
import os
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig

from lab.models.facts import CONFIGS
from lab.models.family import FAMILIES
from lab.models.folder import encoder_class
from lab.models.single_file import gather_configs

PROMPT = "a red apple on a table"
COMMANDS = ("encode", "generate", "compare", "train")


def random_model(family: str, folder: Path) -> Path:
    """A diffusers folder of the family's published shape with random weights; one that is there is taken.

    Another process makes it: what this one held would count as held by the commands that it starts.
    """
    if not (folder / "complete").exists():
        maker = get_context("spawn").Process(target=_make, args=(family, folder))
        maker.start()
        maker.join()
        if maker.exitcode:
            raise SystemExit(f"{folder}: the model could not be made")
    return folder


def _make(family: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    gather_configs(folder, family, None)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16)
    for name, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        kind.from_config(kind.load_config(CONFIGS / family / name)).save_pretrained(folder / name)
    for suffix in FAMILIES[family].suffixes:
        name = f"text_encoder{suffix}"
        config = CLIPTextConfig.from_pretrained(CONFIGS / family / name)
        encoder_class(suffix)(config).half().save_pretrained(folder / name)
    (folder / "complete").touch()


def commands(model: Path, side: int, scratch: Path) -> dict[str, list[str]]:
    """What is run, by name."""
    images = scratch / "images"
    images.mkdir()
    Image.new("RGB", (side, side), (200, 40, 40)).save(images / "red.png")
    sampled = ["--prompt", PROMPT, "--steps", "2", "--width", str(side), "--height", str(side)]
    learned = ["--images", str(images), "--name", "my-thing", "--resolution", str(side), "--steps", "2"]
    learned += ["--evaluate-on", "2", "--preview-steps", "2", "--preview-seeds", "1"]
    found = {
        "encode": [PROMPT],
        "generate": [*sampled, "--out", str(scratch / "generated")],
        "compare": [*sampled, "--axis", "guidance=5,7", "--seeds", "1,2", "--out", str(scratch / "compared")],
        "train": [*learned, "--batch-size", "1", "--out", str(scratch / "trained")],
    }
    return {name: [name, *arguments, "--model", str(model)] for name, arguments in found.items()}


def peak(arguments: list[str]) -> tuple[float, float]:
    """The most memory (GB) that a command held at once, and its seconds."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "lab", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"lab {' '.join(arguments)}: failed")
    scale = 1 if sys.platform == "darwin" else 1024
    return usage.ru_maxrss * scale / 1e9, time.perf_counter() - started


def weights(model: Path) -> float:
    """GB of a model's files: half of what text encoders and VAE take in float32."""
    sizes = {path: path.stat().st_size for path in model.glob("*/*.safetensors")}
    return sum(size if path.parent.name == "unet" else 2 * size for path, size in sizes.items()) / 1e9


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", nargs="+", choices=sorted(FAMILIES), default=["sd1", "sdxl"])
    parser.add_argument("--command", nargs="+", choices=COMMANDS, default=COMMANDS)
    parser.add_argument("--models", type=Path, default=Path("outputs/random-models"))
    parser.add_argument("--side", type=int, default=512)
    asked = parser.parse_args()
    print(f"{'model':8}{'command':12}{'peak, GB':>10}{'weights, GB':>14}{'seconds':>10}")
    for family in asked.family:
        model = random_model(family, asked.models / family)
        with TemporaryDirectory() as scratch:
            made = commands(model, asked.side, Path(scratch))
            for name in asked.command:
                most, seconds = peak(made[name])
                print(f"{family:8}{name:12}{most:10.1f}{weights(model):14.1f}{seconds:10.0f}", flush=True)


if __name__ == "__main__":
    main()

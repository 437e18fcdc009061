"""Measures what the commands import, beside torch, diffusers' U-Net and VAE and transformers' CLIP alone.

    python -m scripts.bench_import [--rounds 3]

Each is run as a process of its own with `-X importtime`, in turn with the others; the fastest of its rounds counts. The
time is the sum over all modules of what each took by itself, so that what a command computes is left out.
"""

import argparse
import re
import subprocess
import sys
import tempfile

from rich.console import Console
from rich.table import Table

LIBRARIES = (
    "import torch; from diffusers import AutoencoderKL, UNet2DConditionModel; "
    "from transformers import CLIPTextModel, CLIPTokenizer"
)


def commands(folder: str) -> dict[str, list[str]]:
    """What is run, by name; images go to the folder."""
    generate = ["generate", "--prompt", "a red apple", "--steps", "1", "--out", f"{folder}/images"]
    return {
        "the libraries alone": ["-c", LIBRARIES],
        "lab encode": ["-m", "lab", "encode", "a red apple"],
        "lab generate": ["-m", "lab", *generate],
        "lab generate --help": ["-m", "lab", "generate", "--help"],
    }


def import_seconds(arguments: list[str]) -> tuple[float, int]:
    """Seconds that all imports of such a process took, and how many modules they were."""
    command = [sys.executable, "-X", "importtime", *arguments]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    took = [int(match) for match in re.findall(r"^import time:\s+(\d+) \|", told, re.MULTILINE)]
    return sum(took) / 1e6, len(took)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    took: dict[str, list[tuple[float, int]]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for name, arguments in commands(folder).items():
                took.setdefault(name, []).append(import_seconds(arguments))
    table = Table("imports of", "modules", "seconds", "ratio")
    base, _ = min(took["the libraries alone"])
    for name, measured in took.items():
        seconds, modules = min(measured)
        table.add_row(name, str(modules), f"{seconds:.2f}", f"{seconds / base:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()

"""The process that checks and measures: one entry after the other, each for itself.

python -m scripts.gpu.work --out FOLDER --device cuda --until SECONDS --names schedulers precisions
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched

import torch

from scripts.gpu.entries import ENTRIES, Entry
from scripts.gpu.journal import FAILED, LEFT_OUT, PASSED, Journal
from scripts.gpu.stand import Found, NotHereError, Stand

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "numpy", "text-conditioning-lab")
TRACEBACK_LINES = 24
LOST_DEVICE = 3
"""Exit code of a process whose device answers no more: another process finds it well again."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--until", type=float, required=True)
    parser.add_argument("--names", nargs="+", required=True)
    arguments = parser.parse_args()
    journal = Journal(arguments.out / "journal.jsonl")
    device = torch.device(arguments.device)
    journal.environment(environment(device, arguments.tiny))
    with tempfile.TemporaryDirectory() as folder:
        stand = Stand(device, arguments.tiny, Path(folder))
        for name in arguments.names:
            entry = ENTRIES[name]
            left = arguments.until - time.time()
            if left < entry.expected and not arguments.tiny:
                words = f"{left:.0f} s were left, and it takes about {entry.expected:.0f} s"
                journal.end(name, LEFT_OUT, 0, error=words)
                continue
            work_off(entry, stand, journal)
            if not answers(device):
                shutil.rmtree(folder, ignore_errors=True)
                sys.stdout.flush()
                os._exit(LOST_DEVICE)  # leaving in order would ask the device again


def work_off(entry: Entry, stand: Stand, journal: Journal) -> None:
    """One entry, with whatever it raises."""
    module, _, function = entry.run.partition(":")
    found, began = Found(), time.time()
    journal.begin(entry.name, began)
    print(f"== {entry.name}", flush=True)
    status, error = PASSED, ""
    try:
        getattr(import_module(f"scripts.gpu.{module}"), function)(stand, found)
    except NotHereError as reason:
        status, error = LEFT_OUT, str(reason)
    except Exception as raised:  # whatever it is, the next entry has its turn
        status, error = FAILED, shortened(raised)
    if status == PASSED and found.broken:
        status, error = FAILED, f"not as it has to be: {', '.join(found.broken)}"
    try:
        stand.tidy()
    except Exception as raised:
        status, error = FAILED, error or shortened(raised)
    journal.end(
        entry.name, status, time.time() - began, figures=found.figures, goals=found.goals, error=error
    )


def shortened(raised: BaseException) -> str:
    """A traceback's beginning and its last lines, which say most."""
    print("".join(traceback.format_exception(raised)), flush=True)
    lines = "".join(traceback.format_exception(raised)).splitlines()
    if len(lines) <= TRACEBACK_LINES:
        return "\n".join(lines)
    half = TRACEBACK_LINES // 2
    return "\n".join([*lines[:half], "...", *lines[-half:]])


def answers(device: torch.device) -> bool:
    """Whether the device still computes; after some errors a process can use it no more."""
    try:
        return float(torch.ones(2, device=device).sum()) == 2.0
    except Exception:
        return False


def environment(device: torch.device, tiny: bool) -> dict[str, Any]:
    """The machine, the card, the driver and the versions."""
    values: dict[str, Any] = {
        "device": str(device),
        "tiny": tiny,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: _version(name) for name in PACKAGES},
    }
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        values |= {
            "card": card.name,
            "memory_gib": round(card.total_memory / 2**30, 1),
            "driver": _driver(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "tf32": {
                "cudnn": torch.backends.cudnn.allow_tf32,
                "matmul": torch.backends.cuda.matmul.allow_tf32,
            },
        }
    return values


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


if __name__ == "__main__":
    main()

"""What every pretraining script needs: its YAML, where things lie, and files that are never half-written."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "outputs" / "pretrain"
CONFIGS = ROOT / "configs" / "pretrain"
ASSETS = ROOT / "lab" / "assets"


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: readers see the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    write(temporary)
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """A file of text, atomically."""
    write_atomically(path, lambda p: p.write_text(text))


def arguments(stage: str, description: str | None) -> argparse.Namespace:
    """The flags that all stages share: --config, --minutes, --device, --threads."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=Path, default=CONFIGS / f"{stage}.yaml", help="the stage's YAML")
    parser.add_argument("--minutes", type=float, default=None, help="stop this stretch after so many minutes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: torch's choice)")
    found = parser.parse_args()
    if found.threads:
        torch.set_num_threads(found.threads)
    return found


def read_config(path: Path) -> dict[str, Any]:
    """One stage's settings as plain values."""
    return yaml.safe_load(path.read_text())


def merged(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`config` with `changes`, folder by folder."""
    found = dict(config)
    for name, value in changes.items():
        found[name] = merged(config[name], value) if isinstance(value, dict) and name in config else value
    return found

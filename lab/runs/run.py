"""A folder of generated images: what was asked for, and what of it is done."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from lab.errors import InputError
from lab.files import atomic, writing
from lab.runs.png import save_image

_NAME = re.compile(r"(\d{5,})-seed\d+.*\.png")


@dataclass(frozen=True)
class RunFolder:
    """Images named so that they sort as they were asked for, beside the config that makes them again."""

    path: Path

    @classmethod
    def open(cls, path: Path, config: str) -> "RunFolder":
        """Starts a run in a folder, or goes on with the same run in it.

        Args:
            config: The run's whole config as YAML; two runs are the same if this text is.

        Raises:
            InputError: the folder holds a run with other settings (named), or cannot be written.
        """
        stored = path / "config.yaml"
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            before = stored.read_text(encoding="utf-8") if stored.is_file() else None
        if before is None:
            with atomic(stored) as temporary:
                temporary.write_text(config, encoding="utf-8")
        elif before != config:
            raise InputError(
                f"{path}: holds a run with other settings ({_difference(before, config)}); choose another --out"
            )
        return cls(path)

    def finished(self) -> dict[int, Path]:
        """The images that are there, by their index."""
        found = ((_NAME.fullmatch(path.name), path) for path in sorted(self.path.glob("*.png")))
        return {int(match[1]): path for match, path in found if match}

    def save(self, index: int, image: Image.Image, record: dict[str, Any]) -> Path:
        """Writes one image with its record, and returns the image's path."""
        words = re.sub(r"[^a-z0-9]+", "-", record["prompt"].lower()).strip("-")[:40].strip("-")
        path = self.path / f"{index:05d}-seed{record['seed']}{'-' if words else ''}{words}.png"
        save_image(path, image, record)
        return path


def _difference(before: str, now: str) -> str:
    """Names the settings in which two configs differ."""
    try:
        one, other = yaml.safe_load(before), yaml.safe_load(now)
        keys = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
    except (yaml.YAMLError, AttributeError):
        return "its config.yaml was edited"
    return ", ".join(keys) or "its config.yaml was edited"

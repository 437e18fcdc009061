"""Images on disk that carry what made them."""

import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from lab.errors import InputError
from lab.files import atomic

SAMPLERS = {
    "ddim": "DDIM",
    "pndm": "PLMS",
    "euler": "Euler",
    "euler-a": "Euler a",
    "heun": "Heun",
    "dpm++2m": "DPM++ 2M",
    "dpm++2m-sde": "DPM++ 2M SDE",
    "unipc": "UniPC",
    "lcm": "LCM",
}
"""The lab's scheduler names as the A1111 web UI spells them."""


def parameters_text(record: Mapping[str, Any], version: str) -> str:
    """The `parameters` chunk for an image's record: prompt, negative prompt, then a line of settings."""
    lines = [record["prompt"]]
    if record.get("negative_prompt"):
        lines.append(f"Negative prompt: {record['negative_prompt']}")
    lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in _settings(record, version).items()))
    return "\n".join(lines)


def _settings(record: Mapping[str, Any], version: str) -> dict[str, Any]:
    settings = {
        "Steps": record["steps"],
        "Sampler": SAMPLERS[record["scheduler"]],
        "Schedule type": "Karras" if record["karras"] else "Automatic",
        "CFG scale": record["guidance"],
        "Seed": record["seed"],
        "Size": f"{record['width']}x{record['height']}",
        "Model hash": record["model_hash"][:10],
        "Model": record["model"],
    }
    if record["clip_skip"]:
        settings["Clip skip"] = record["clip_skip"] + 1  # A1111 counts the last layer as 1
    if "strength" in record:
        settings["Denoising strength"] = record["strength"]
    if record["guidance_rescale"]:
        settings["CFG Rescale"] = record["guidance_rescale"]
    hashes = {use["name"]: use["sha256"][:12] for use in record["applied"]}
    if hashes:
        settings["TI hashes"] = ", ".join(f"{name}: {digest}" for name, digest in hashes.items())
    settings["Version"] = f"lab {version}"
    return settings


def _quoted(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ",:\n") else text


CHUNK = "lab"
"""The PNG text chunk that holds the whole record as JSON, beside A1111's `parameters`."""


def save_image(path: Path, image: Image.Image, record: dict[str, Any]) -> None:
    """Writes a PNG with its metadata, and the record beside it as JSON. The PNG comes last: if it is there, both are.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    with atomic(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    info = PngInfo()
    info.add_text("parameters", parameters_text(record, _version()))
    info.add_text(CHUNK, json.dumps(record))
    with atomic(path) as temporary:
        # Level 1 takes a third of the default's time, for a sixth more bytes.
        image.save(temporary, format="PNG", pnginfo=info, compress_level=1)


@cache
def _version() -> str:
    return version("text-conditioning-lab")  # parses the package's metadata each time


def read_record(path: Path) -> dict[str, Any]:
    """The record in a PNG that the lab wrote.

    Raises:
        InputError: not an image, or one without a record.
    """
    try:
        with Image.open(path) as image:
            image.load()
            text = getattr(image, "text", {}).get(CHUNK)
    except FileNotFoundError:
        raise InputError(f"{path}: no such image") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise InputError(f"{path}: not an image that can be read") from None
    try:
        record = json.loads(text or "")
        record["seed"], record["prompt"]
    except (ValueError, TypeError, KeyError):
        raise InputError(
            f"{path}: carries no record of the lab, so it cannot be made again from it"
        ) from None
    return record

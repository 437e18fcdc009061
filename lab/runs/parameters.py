"""The text that the A1111 web UI stores with an image, which most other tools read."""

import json
from collections.abc import Mapping
from typing import Any

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

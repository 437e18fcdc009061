"""What made an image, enough to make it again: as the lab's record, as A1111 writes it, and as a run's contents."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any

from PIL import Image

from lab.condition.weighting import WEIGHTINGS
from lab.config import at_home
from lab.files import is_there
from lab.hub.repository import HUB
from lab.models.bundle import Bundle
from lab.models.controlnet import find_controlnet
from lab.models.schedulers import SCHEDULERS
from lab.models.source import bundled
from lab.prompt.dialects import find_dialect
from lab.runs.png import save_image
from lab.runs.run import file_digest, text_digest
from lab.sample.config import GenerateConfig
from lab.sample.negatives import NEGATIVE_METHODS
from lab.sample.plan import Job

_NOT_OF_ONE_IMAGE = {"prompt", "prompt_file", "seeds", "walk", "frames", "way", "out", "batch_size"}

FILES = {
    "init_image": "init image",
    "embeds": "prompt embeddings",
    "negative_embeds": "negative prompt embeddings",
    "controlnet": "ControlNet",
    "control_image": "control image",
}
"""The options that name something on disk which makes the image, and what people call it."""

PLACES = frozenset({*FILES, "model", "vae", "lora", "config_folder", "embedding", "embeddings"})
"""The options that may name something on disk."""

BY_CONTENT = frozenset({*FILES, "prompt", "prompt_file", "embedding", "embeddings", "model"})
"""The options of `GenerateConfig` whose effect on the images `contents` covers."""


def make_record(bundle: Bundle, job: Job) -> dict[str, Any]:
    """The image's record: plain JSON values.

    Keys named like a field of `GenerateConfig` hold what that field was, or the default that was used in its
    place, files and folders by absolute paths; `config_from_record` reads them back, in any folder.

    Raises:
        InputError: the init image or a file of prompt embeddings cannot be read any more.
    """
    request, options = job.request, job.request.options
    given = options.model_dump(mode="json", include=options.model_fields_set - _NOT_OF_ONE_IMAGE)
    negative = request.negative_prompt
    used = {
        "seed": job.seed,
        "prompt": job.positive.prompt,
        "negative_prompt": negative if isinstance(negative, str | None) else negative.prompt,
        "model": bundle.source,
        "model_hash": bundle.hash,
        "family": bundle.family,
        "device": bundle.device.type,
        "dtype": bundle.precision,
        **job.settings.record(),
        "dialect": options.dialect,
        "weighting": options.weighting_used,
        "clip_skip": options.clip_skip,
        "applied": _applied(job),
        "versions": {name: _version(name) for name in ("torch", "diffusers", "transformers")},
    }
    used |= {f"{name}_sha256": digest for name, digest in file_digests(options).items()}
    record = given | used
    return record | {name: _from_anywhere(record[name]) for name in record.keys() & PLACES}


def _from_anywhere(value: Any) -> Any:
    """A place, or several, such that it is the same from every folder: paths of what is on disk become absolute, also
    behind `file:` and in front of `=NAME` or `=SCALE`."""
    if isinstance(value, list):
        return [_from_anywhere(each) for each in value]
    if not isinstance(value, str) or value in bundled():
        return value
    kind = "file:" * value.startswith("file:")
    path, equals, rest = value.removeprefix(kind), "", ""
    if not is_there(at_home(Path(path))):
        path, equals, rest = path.rpartition("=")
    there = bool(path) and is_there(at_home(Path(path)))
    return f"{kind}{at_home(Path(path)).absolute()}{equals}{rest}" if there else value


def file_digests(options: GenerateConfig) -> dict[str, str]:
    """A digest of what each option in `FILES` names, by the option, of those that are given.

    Raises:
        InputError: it cannot be read any more.
    """
    given = {name: value for name in FILES if (value := getattr(options, name)) is not None}
    return {
        name: find_controlnet(value).digest if name == "controlnet" else file_digest(value)
        for name, value in given.items()
    }


def save_result(path: Path, image: Image.Image, record: dict[str, Any]) -> None:
    """Writes a generated image as a PNG with its record and A1111's parameters in it, and the record beside it.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    save_image(path, image, record, parameters_text(record))


def contents(bundle: Bundle, jobs: Sequence[Job]) -> dict[str, str]:
    """What the images of jobs are made of beside their settings: a digest of each thing, by what it is.

    The prompts are numbered in their order, by the images with the first job's seed.

    Raises:
        InputError: the init image or a file of prompt embeddings cannot be read any more.
    """
    things = bundle.contents()
    prompts = [job.positive.prompt for job in jobs if job.seed == jobs[0].seed]
    things |= {f"prompt {number}": text_digest(prompt) for number, prompt in enumerate(prompts, start=1)}
    for job in jobs:
        things |= {f"embedding {use['name']}": use["sha256"] for use in _applied(job)}
        things |= {FILES[name]: digest for name, digest in file_digests(job.request.options).items()}
    return things


def parameters_text(record: Mapping[str, Any]) -> str:
    """A1111's `parameters` chunk for an image's record: prompt, negative prompt, then a line of settings."""
    lines = [record["prompt"]]
    if record.get("negative_prompt"):
        lines.append(f"Negative prompt: {record['negative_prompt']}")
    lines.append(", ".join(f"{key}: {value}" for key, value in _a1111_settings(record).items()))
    return "\n".join(lines)


def _a1111_settings(record: Mapping[str, Any]) -> dict[str, str]:
    """The settings as they are written; `Hashes` is bare JSON, as civitai's extension and ComfyUI's savers write it."""
    settings: dict[str, Any] = {
        "Steps": record["steps"],
        "Sampler": SCHEDULERS[record["scheduler"]].a1111,
        "Schedule type": "Karras" if record["karras"] else "Automatic",
        "CFG scale": record["guidance"],
        "Seed": record["seed"],
        "Size": f"{record['width']}x{record['height']}",
        "Model hash": record["model_hash"][:10],
        "Model": record["model"] if record["model"].startswith(HUB) else PurePath(record["model"]).name,
    }
    if record["clip_skip"]:
        settings["Clip skip"] = record["clip_skip"] + 1  # A1111 counts the last layer as 1
    if record.get("strength") is not None:
        settings["Denoising strength"] = record["strength"]
    if record["guidance_rescale"]:
        settings["CFG Rescale"] = record["guidance_rescale"]
    method = NEGATIVE_METHODS[record.get("negative_method", "cfg")]
    if method.a1111:
        settings |= dict([method.a1111]) | {"Negative strength": record["negative_strength"]}
    hashes = {use["name"]: use["sha256"][:12] for use in record["applied"]}
    if hashes:
        settings["TI hashes"] = ", ".join(f"{name}: {digest}" for name, digest in hashes.items())
    settings |= _emphasis(record)
    written = {key: _quoted(value) for key, value in settings.items()}
    if hashes:
        short = {"model": record["model_hash"][:10]} | {
            f"embed:{name}": each[:10] for name, each in hashes.items()
        }
        written["Hashes"] = json.dumps(short, ensure_ascii=False)
    return written | {"Version": _quoted(f"lab {_version('text-conditioning-lab')}")}


def _emphasis(record: Mapping[str, Any]) -> dict[str, str]:
    """How words are weighted, as A1111 writes it: nothing where there are no brackets or for its usual way.

    What it has no name for stands under a key that it passes over.
    """
    texts = (record["prompt"], record.get("negative_prompt") or "")
    if not any(bracket in text for text in texts for bracket in "(["):
        return {}
    if find_dialect(record["dialect"]).emphasis is None:  # brackets are literal text
        return {"Emphasis": "None"}
    name = WEIGHTINGS[record["weighting"]].a1111
    if name is None:
        return {"Weighting": record["weighting"]}
    return {} if name == "Original" else {"Emphasis": name}


def _quoted(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ",:\n") else text


@cache
def _version(package: str) -> str:
    return version(package)  # parses the package's metadata each time


def _applied(job: Job) -> list[dict[str, Any]]:
    """Every learned embedding in force, by side."""
    sides = {"positive": job.positive} | ({"negative": job.negative} if job.negative_acts else {})
    return [
        {
            "side": side,
            "name": use.name,
            "vectors": use.vectors,
            "positions": list(use.positions),
            "weight": use.weight,
            "sha256": use.sha256,
        }
        for side, conditioning in sides.items()
        for use in conditioning.applied
    ]

"""What made an image: enough to make it again."""

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lab.models.bundle import Bundle
from lab.sample.config import GenerateConfig
from lab.sample.plan import Job

_NOT_OF_ONE_IMAGE = {"prompt", "prompt_file", "seeds", "out", "batch_size"}


def make_record(bundle: Bundle, config: GenerateConfig, job: Job) -> dict[str, Any]:
    """The image's record: plain JSON values.

    Keys named like a field of `GenerateConfig` hold what that field was, or the default that was used in its
    place; `config_of` reads them back.
    """
    given = config.model_dump(mode="json", include=config.model_fields_set - _NOT_OF_ONE_IMAGE)
    used = {
        "seed": job.seed,
        "prompt": job.positive.prompt,
        "negative_prompt": config.negative_prompt,
        "model": bundle.source,
        "model_hash": bundle.hash,
        "family": bundle.family,
        "device": bundle.device.type,
        "dtype": str(bundle.dtype).removeprefix("torch."),
        **job.settings.record(),
        "dialect": config.dialect,
        "weighting": config.weighting or config.dialect,
        "clip_skip": config.clip_skip,
        "applied": _applied(job),
        "versions": {name: _version(name) for name in ("torch", "diffusers", "transformers")},
    }
    for name in ("init_image", "embeds", "negative_embeds"):
        path = getattr(config, name)
        if path is not None:
            used[f"{name}_sha256"] = sha256_of(path)
    return given | used


@cache
def _version(package: str) -> str:
    return version(package)  # parses the package's metadata each time


def config_of(record: dict[str, Any]) -> GenerateConfig:
    """The config that makes the image of a record again."""
    settings = {key: value for key, value in record.items() if key in GenerateConfig.model_fields}
    if "embeds" in settings:
        del settings["prompt"]  # the text that they were encoded from
    return GenerateConfig.build(settings | {"seeds": record["seed"]}, where="record")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _applied(job: Job) -> list[dict[str, Any]]:
    """Every learned embedding in force, by side."""
    sides = {"positive": job.positive, "negative": job.negative} if job.guided else {"positive": job.positive}
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

"""What every reader of models gives: the loaded parts, before they become a `Bundle`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lab.errors import InputError
from lab.models.bundle import Family

Encoder: TypeAlias = CLIPTextModel | CLIPTextModelWithProjection


@dataclass(frozen=True)
class Parts:
    """A model's parts on the CPU: the U-Net in the wanted precision, the rest in float32.

    Attributes:
        settings: Of `model_index.json`, or empty.
        weights: The files that were read, by part; `checkpoint` holds a single file.
    """

    family: Family
    tokenizers: list[CLIPTokenizer]
    encoders: list[Encoder]
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    scheduler: Mapping[str, Any]
    settings: Mapping[str, Any]
    weights: Mapping[str, tuple[Path, ...]]


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        InputError: no such file, unreadable, or not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, and the model needs it") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def encoder_class(suffix: str) -> type[CLIPTextModel] | type[CLIPTextModelWithProjection]:
    """SDXL's second text encoder, whose folder has the suffix `_2`, also projects the pooled text."""
    return CLIPTextModelWithProjection if suffix else CLIPTextModel

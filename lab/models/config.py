"""The options that say which model to load, where, and how precisely."""

import re
from collections.abc import Iterable
from math import isfinite, nan
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from lab.config import Config, ExistingFolder, at_home
from lab.errors import InputError, did_you_mean
from lab.files import is_file

DEVICES = ("auto", "cpu", "cuda", "mps")


def split_lora(text: str) -> tuple[Path, float]:
    """Splits `FILE` or `FILE=scale`; without a scale it is 1. An existing file may have an equals sign in its name.

    Raises:
        InputError: the scale is not a finite number.
    """
    name, equals, scale = text.rpartition("=")
    if not equals or is_file(at_home(Path(text))):
        return at_home(Path(text)), 1.0
    try:
        strength = float(scale)
    except ValueError:
        strength = nan
    if not isfinite(strength):
        raise InputError(f"{text}: '{scale}' is not a scale; write FILE or FILE=0.8")
    return at_home(Path(name)), strength


def _check_lora(text: str) -> str:
    path, _ = split_lora(text)
    if not is_file(path):
        raise ValueError(f"{path}: no such file")
    return text


def _device_name(value: object) -> object:
    """`torch.device` values by their names, without importing torch."""
    return value if isinstance(value, str) or not hasattr(value, "type") else str(value)


def _check_device(name: str) -> str:
    if name.partition(":")[0] not in DEVICES or not re.fullmatch(r"\w+(:\d+)?", name):
        raise ValueError(f"unknown device '{name}'{did_you_mean(name, DEVICES)}")
    return name


def check_for_loaded(bundle: object, settings: Iterable[str] = ()) -> None:
    """Refuses what is no loaded model, and beside one options that say which model to load and how.

    Raises:
        InputError: names the first of them.
    """
    if not hasattr(bundle, "towers"):  # without importing what a Bundle needs
        raise InputError(f"bundle: expected what lab.load returns, not {type(bundle).__name__}")
    for name in settings:
        if name in ModelOptions.model_fields:
            raise InputError(f"options: '{name}' does not apply to a loaded bundle; give it to lab.load")


Source = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)]
"""Where something is: a folder, `file:x.safetensors`, `hub:org/name`, or `hub:org/name/x.safetensors`."""


class LoadingOptions(Config):
    """How models are loaded, on which device, in which precision."""

    device: Annotated[str, BeforeValidator(_device_name), AfterValidator(_check_device)] = "auto"
    """`auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1`, `mps`."""

    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        BeforeValidator(lambda value: str(value).removeprefix("torch.")),
    ] = "auto"
    """Precision of the U-Net: `auto` is half on GPUs, bfloat16 on CPUs that are faster with it (Intel AMX; published
    sizes, not the bundled model), else float32. Records name what was used, and `lab rerun` takes it."""

    revision: str | None = None
    """Revision of a hub model."""

    variant: str | None = None
    """Weight variant of a diffusers folder, such as `fp16`."""

    vae: Source | None = None
    """Another VAE: a diffusers folder, `file:x.safetensors`, `hub:org/name`, or `hub:org/name/x.safetensors`."""

    config_folder: ExistingFolder | None = None
    """Configs and tokenizer for a single-file model, as a diffusers folder without weights."""

    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    """Overrides what the model says that its U-Net predicts."""

    lora: list[Annotated[str, AfterValidator(_check_lora)]] = Field(default_factory=list)
    """A LoRA file, loaded by diffusers: FILE or FILE=scale, repeatable."""

    vae_slicing: bool = False
    """Decodes one image at a time to save memory."""

    vae_tiling: bool = False
    """Decodes in tiles, for images too large for memory."""

    cpu_offload: bool = False
    """Keeps each part on the CPU until it is needed (GPU only)."""

    compile: bool = False
    """Compiles the U-Net with torch.compile: a slow first step, faster ones after it."""


class ModelOptions(LoadingOptions):
    """Which model, on which device, in which precision."""

    model: Source = "emoji"
    """The bundled `emoji`, a diffusers folder, `file:x.safetensors`, `hub:org/name` or `hub:org/name/x.safetensors`."""

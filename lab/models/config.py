"""The options that say which model to load, where, and how precisely."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from lab.config import Config


class ModelOptions(Config):
    """Which model, on which device, in which precision."""

    model: str = "emoji"
    """The bundled `emoji`, a diffusers folder, `file:x.safetensors`, `hub:org/name` or `hub:org/name/x.safetensors`."""

    device: str = "auto"
    """`auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1`, `mps`."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Precision of the U-Net; `auto` takes the fastest that looks the same."""

    revision: str | None = None
    """Revision of a hub model."""

    variant: str | None = None
    """Weight variant of a diffusers folder, such as `fp16`."""

    vae: str | None = None
    """Another VAE: a diffusers folder, `file:x.safetensors`, `hub:org/name`, or `hub:org/name/x.safetensors`."""

    config_folder: Path | None = None
    """Configs and tokenizer for a single-file model, as a diffusers folder without weights."""

    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    """Overrides what the model says that its U-Net predicts."""

    lora: list[str] = Field(default_factory=list)
    """A LoRA file, loaded by diffusers: FILE or FILE=scale, repeatable."""

    vae_slicing: bool = False
    """Decodes one image at a time to save memory."""

    vae_tiling: bool = False
    """Decodes in tiles, for images too large for memory."""

    cpu_offload: bool = False
    """Keeps each part on the CPU until it is needed (GPU only)."""

    compile: bool = False
    """Compiles the U-Net with torch.compile: a slow first step, faster ones after it."""

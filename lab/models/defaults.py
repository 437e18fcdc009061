"""What a model is best sampled with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from lab.config import Config, one_of
from lab.files import read_json
from lab.models.family import FAMILIES, Family
from lab.models.schedulers import SCHEDULERS, USUAL, scheduler_name


class GenerationDefaults(Config):
    """What a model is best sampled with, where neither flags nor config say otherwise.

    A model folder may say it in a `generation_config.json` with these keys.
    """

    steps: int = Field(25, ge=1)
    guidance: float = 7.0
    guidance_rescale: float = Field(0.0, ge=0, le=1)
    guidance_interval: tuple[float, float] | None = None
    scheduler: Annotated[str, one_of(SCHEDULERS, "scheduler")] = USUAL
    width: int = Field(512, ge=1)
    height: int = Field(512, ge=1)


def vae_scale(config: Mapping[str, Any]) -> int:
    """Pixels per latent, along each side, of a VAE with this config."""
    return 2 ** (len(config["block_out_channels"]) - 1)


def generation_defaults(
    family: Family,
    unet: Mapping[str, Any],
    vae: Mapping[str, Any],
    scheduler: Mapping[str, Any],
    root: Path,
) -> GenerationDefaults:
    """The family's guidance, the size that the U-Net was trained at and the model's own scheduler.

    What the folder's `generation_config.json` says comes before all of them.

    Args:
        unet, vae, scheduler: The parts' configs.
        root: The model's folder, or a single file, beside which no generation config is looked for.

    Raises:
        InputError: the generation config is broken or has an unknown key.
    """
    sample = unet.get("sample_size") or 64
    height, width = (sample, sample) if isinstance(sample, int) else sample
    scale = vae_scale(vae)
    settings = {
        "guidance": FAMILIES[family].guidance,
        "scheduler": scheduler_name(scheduler),
        "width": width * scale,
        "height": height * scale,
    }
    path = root / "generation_config.json"
    stated = read_json(path) if path.is_file() else {}
    return GenerationDefaults.build(settings | stated, where=str(path))

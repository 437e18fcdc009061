"""What a model is best sampled with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.models.bundle import Family, GenerationDefaults, vae_scale
from lab.models.family import FAMILIES
from lab.models.folder import read_json

SCHEDULER_NAMES = {
    "DDIMScheduler": "ddim",
    "PNDMScheduler": "pndm",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler-a",
    "HeunDiscreteScheduler": "heun",
    "DPMSolverMultistepScheduler": "dpm++2m",
    "UniPCMultistepScheduler": "unipc",
    "LCMScheduler": "lcm",
}
"""The lab's names of the scheduler classes that models are saved with."""


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


def scheduler_name(config: Mapping[str, Any]) -> str:
    """The lab's name for the scheduler that a model was saved with; `ddim` where the lab does not offer it."""
    name = SCHEDULER_NAMES.get(config.get("_class_name", ""), "ddim")
    if name == "dpm++2m" and config.get("algorithm_type") == "sde-dpmsolver++":
        return "dpm++2m-sde"
    return name

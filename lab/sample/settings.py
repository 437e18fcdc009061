"""Sampling settings as they are used: the options given, completed by the model's own defaults, and checked."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lab.errors import InputError
from lab.models.facts import ModelFacts, vae_scale
from lab.models.part_configs import read_part_config
from lab.models.schedulers import SCHEDULERS, check_scheduler, make_scheduler
from lab.sample.config import SamplingOptions

SIZE_CONDITIONING = ("original_width", "original_height", "crop_left", "crop_top")
"""The options that SDXL alone takes, beside the size of the image itself."""


@dataclass(frozen=True)
class Settings:
    """What one image is sampled with: `SamplingOptions`, completed by the model's defaults; sizes in pixels.

    Attributes:
        original_width, original_height, crop_left, crop_top: None for models without size conditioning.
        strength: None without an init image.
        control_scale: None without a ControlNet.
    """

    steps: int
    guidance: float
    guidance_rescale: float
    guidance_interval: tuple[float, float] | None
    scheduler: str
    karras: bool
    width: int
    height: int
    original_width: int | None
    original_height: int | None
    crop_left: int | None
    crop_top: int | None
    strength: float | None
    control_scale: float | None

    @property
    def steps_run(self) -> int:
        """Denoising steps that are really made: image-to-image leaves out the first ones, as in diffusers."""
        return self.steps if self.strength is None else min(int(self.steps * self.strength), self.steps)

    @property
    def prompt_steps(self) -> int:
        """What prompts are scheduled over: calls of the U-Net, as the web UI counts them."""
        return self.steps * SCHEDULERS[self.scheduler].calls

    def record(self) -> dict[str, Any]:
        """The settings by name for an image's record, without those that do not apply."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def resolve_settings(facts: ModelFacts, options: SamplingOptions) -> Settings:
    """Completes the options with the defaults of a model, which need not be loaded yet.

    Raises:
        InputError: a size that the model cannot make, a scheduler that cannot work with it, a guidance interval
            that is empty, or an option that the model or the other options give no meaning.
    """

    def chosen(name: str) -> Any:
        given = getattr(options, name)
        return getattr(facts.defaults, name) if given is None else given

    settings = Settings(
        **{name: chosen(name) for name in ("steps", "guidance", "guidance_rescale", "scheduler")},
        **{name: chosen(name) for name in ("guidance_interval", "width", "height")},
        **_size_conditioning(facts, options, chosen("width"), chosen("height")),
        karras=options.karras,
        strength=_strength(options),
        control_scale=_control_scale(facts, options),
    )
    check_scheduler(settings.scheduler, settings.karras, facts.scheduler_config)
    make_scheduler(settings.scheduler, settings.karras, facts.scheduler_config, settings.steps)
    _check_size(facts, settings)
    if settings.guidance_interval and not settings.guidance_interval[0] < settings.guidance_interval[1]:
        low, high = settings.guidance_interval
        raise InputError(f"guidance_interval: from {low:g} to {high:g} is empty; give LOW before HIGH")
    if settings.steps_run == 0:
        raise InputError(
            f"strength: {settings.strength:g} of {settings.steps} steps runs none; raise --strength or --steps"
        )
    return settings


def _check_size(facts: ModelFacts, settings: Settings) -> None:
    multiple = facts.size_multiple
    for side in ("width", "height"):
        pixels = getattr(settings, side)
        if pixels % multiple:
            below = max(pixels // multiple, 1) * multiple
            raise InputError(
                f"{side}: {pixels} is not a multiple of {multiple}, which {facts.source} needs; "
                f"use {below} or {below + multiple}"
            )


STRENGTH = 0.8
"""How much of an init image is changed where nobody says, as in diffusers' StableDiffusionImg2ImgPipeline."""


def _strength(options: SamplingOptions) -> float | None:
    if options.init_image is not None:
        return STRENGTH if options.strength is None else options.strength
    if options.strength is not None:
        raise InputError("strength: says how much of an init image to change; give one with --init-image")
    return None


def _control_scale(facts: ModelFacts, options: SamplingOptions) -> float | None:
    if options.controlnet is not None and options.control_image is not None:
        _check_controlnet(options.controlnet, facts)
        return 1.0 if options.control_scale is None else options.control_scale
    if options.controlnet is not None:
        raise InputError("controlnet: needs an image of the shapes to hold to; give one with --control-image")
    if options.control_image is not None:
        raise InputError("control_image: is for a ControlNet to read; give its folder with --controlnet")
    if options.control_scale is not None:
        raise InputError("control_scale: says how much a ControlNet says; give one with --controlnet")
    return None


def _check_controlnet(folder: Path, facts: ModelFacts) -> None:
    """Refuses a folder without a ControlNet, and one whose layers are not those of the model's U-Net.

    Raises:
        InputError: as said; tells which of its settings differ.
    """
    config = read_part_config(folder / "config.json", "controlnet")
    if not str(config.get("_class_name", "")).startswith("ControlNetModel"):
        raise InputError(
            f"{folder}: a {config.get('_class_name', 'model of another kind')}, not a ControlNet"
        )
    alike = ("in_channels", "block_out_channels", "cross_attention_dim", "addition_embed_type")
    differing = [name for name in alike if config.get(name) != facts.unet.get(name)]
    blocks = config.get("conditioning_embedding_out_channels") or (16, 32, 96, 256)
    if 2 ** (len(blocks) - 1) != vae_scale(facts.vae):
        raise InputError(
            f"{folder}: reads control images at 1/{2 ** (len(blocks) - 1)} of their size, and {facts.source}'s "
            f"latents have 1/{vae_scale(facts.vae)}; use one made for this model"
        )
    if differing:
        said = ", ".join(f"{name} {config.get(name)} for {facts.unet.get(name)}" for name in differing)
        raise InputError(
            f"{folder}: a ControlNet for another U-Net than {facts.source}'s ({said}); use one made for "
            f"{facts.traits.short_label}"
        )


def _size_conditioning(
    facts: ModelFacts, options: SamplingOptions, width: int, height: int
) -> dict[str, Any]:
    given = {name: getattr(options, name) for name in SIZE_CONDITIONING}
    if facts.traits.size_conditioning:
        own = dict(zip(SIZE_CONDITIONING, (width, height, 0, 0), strict=True))
        return {name: own[name] if value is None else value for name, value in given.items()}
    for name, value in given.items():
        if value is not None:
            raise InputError(f"{name}: {facts.source} has no size conditioning, only SDXL has; leave it out")
    return given

"""Sampling settings as they are used: the options given, completed by the model's own defaults, and checked."""

from dataclasses import asdict, dataclass
from typing import Any

from lab.errors import InputError
from lab.models.facts import ModelFacts
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

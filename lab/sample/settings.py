"""Sampling settings as they are used: options completed by the model's own defaults; and requests checked by its
configs. Imports no torch."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from lab.condition.config import TextOptions
from lab.embeddings.embedding import Embedding
from lab.embeddings.facts import check_fits
from lab.embeddings.library import Sources, collect
from lab.errors import InputError
from lab.listening import Listener
from lab.models.controlnet import controlnet_config, find_controlnet
from lab.models.facts import ModelFacts, check_clip_skip
from lab.models.schedulers import SCHEDULERS, check_scheduler, make_scheduler
from lab.prompt.parse import parse, references_in, resolve
from lab.sample.config import Request, SamplingOptions
from lab.sample.negatives import NEGATIVE_METHODS, NegativeMethod, check_weights, weights_in

Value = TypeVar("Value")

SIZE_CONDITIONING = ("original_width", "original_height", "crop_left", "crop_top")
"""The options that SDXL alone takes, beside the size of the image itself."""


@dataclass(frozen=True)
class Settings:
    """What one image is sampled with: `SamplingOptions`, completed by the model's defaults; sizes in pixels.

    Attributes:
        negative_strength: The method's own measure; None where it has none.
        original_width, original_height, crop_left, crop_top: None for models without size conditioning.
        strength: None without an init image.
        control_scale: None without a ControlNet.
    """

    steps: int
    guidance: float
    guidance_rescale: float
    guidance_interval: tuple[float, float] | None
    negative_method: str
    negative_strength: float | None
    negative_interval: tuple[float, float] | None
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

    @property
    def needs_empty(self) -> bool:
        """Whether predictions for no prompt at all are asked for."""
        return self.negative_interval is not None or self.avoiding.guide is not None

    @property
    def passes(self) -> int:
        """Rows of the U-Net's batch for a plain prompt where all that it needs takes part."""
        if self.guidance <= 1:
            return 1
        return 2 if self.avoiding.guide is None else 3

    @property
    def avoiding(self) -> NegativeMethod:
        """How the negative prompt acts."""
        return NEGATIVE_METHODS[self.negative_method]

    def record(self) -> dict[str, Any]:
        """The settings by name for an image's record, without those that do not apply."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def resolve_settings(
    facts: ModelFacts, options: SamplingOptions, listener: Listener = Listener()
) -> Settings:
    """Completes the options with the defaults of a model, which need not be loaded yet.

    Args:
        listener: Hears how much of a ControlNet on a hub is fetched.

    Raises:
        InputError: a size that the model cannot make, a scheduler that cannot work with it, an interval that is
            empty, or an option that the model or the other options give no meaning.
    """

    def chosen(name: str) -> Any:
        given = getattr(options, name)
        return getattr(facts.defaults, name) if given is None else given

    settings = Settings(
        **{name: chosen(name) for name in ("steps", "guidance", "guidance_rescale", "scheduler")},
        **{name: chosen(name) for name in ("guidance_interval", "width", "height")},
        **_size_conditioning(facts, options, chosen("width"), chosen("height")),
        negative_method=options.negative_method,
        negative_strength=_negative_strength(options),
        negative_interval=options.negative_interval,
        karras=options.karras,
        strength=_strength(options),
        control_scale=_control_scale(facts, options, listener),
    )
    check_scheduler(settings.scheduler, settings.karras, facts.scheduler_config)
    _check_size(facts, settings)
    for name in ("guidance_interval", "negative_interval"):
        low, high = getattr(settings, name) or (0, 1)
        if not low < high:
            raise InputError(f"{name}: from {low:g} to {high:g} is empty; give LOW before HIGH")
    if settings.steps_run == 0:
        raise InputError(
            f"strength: {settings.strength:g} of {settings.steps} steps runs none; raise --strength or --steps"
        )
    make_scheduler(settings.scheduler, settings.karras, facts.scheduler_config, settings.steps)
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


def _negative_strength(options: SamplingOptions) -> float | None:
    usual, asked = NEGATIVE_METHODS[options.negative_method].strength, options.negative_strength
    if asked is not None and usual is None:
        raise InputError(
            f"negative_strength: {options.negative_method} has none beside --guidance; leave it out or choose another "
            "--negative-method"
        )
    return usual if asked is None else asked


STRENGTH = 0.8
"""How much of an init image is changed where nobody says, as in diffusers' StableDiffusionImg2ImgPipeline."""


def _strength(options: SamplingOptions) -> float | None:
    if options.init_image is not None:
        return STRENGTH if options.strength is None else options.strength
    if options.strength is not None:
        raise InputError("strength: says how much of an init image to change; give one with --init-image")
    return None


def _control_scale(facts: ModelFacts, options: SamplingOptions, listener: Listener) -> float | None:
    if options.controlnet is not None and options.control_image is not None:
        controlnet_config(find_controlnet(options.controlnet, listener), facts)
        return 1.0 if options.control_scale is None else options.control_scale
    if options.controlnet is not None:
        raise InputError("controlnet: needs an image of the shapes to hold to; give one with --control-image")
    if options.control_image is not None:
        raise InputError("control_image: is for a ControlNet to read; give one with --controlnet")
    if options.control_scale is not None:
        raise InputError("control_scale: says how much a ControlNet says; give one with --controlnet")
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


def check_requests_by_configs(
    facts: ModelFacts,
    requests: Sequence[Request],
    embeddings: Sources = (),
    listener: Listener = Listener(),
) -> None:
    """Refuses, before a model's weights are read, what `plan` would refuse because of the model's configs.

    Args:
        listener: Hears how much of a ControlNet on a hub is fetched.

    Raises:
        InputError: settings or a clip skip that the model cannot serve, a text that names no embedding there is or
            one of another family, or words of negative weight that nothing takes away.
    """
    for clip_skip in dict.fromkeys(request.options.clip_skip for request in requests):
        check_clip_skip(
            clip_skip, facts
        )  # first, as the schedulers that settings are checked with take a while
    groups: dict[Hashable, list[Request]] = defaultdict(list)
    for request in requests:
        groups[reading_key(request)].append(request)
    libraries: dict[Hashable, Mapping[str, Embedding]] = {}
    for key, group in groups.items():
        options = group[0].options
        check_clip_skip(options.clip_skip, facts)
        library = libraries[key] = offered_embeddings(options, embeddings)
        for text in dict.fromkeys(text for request in group for text, _ in _texts(request)):
            for reference in references_in(text, library, options.dialect):
                check_fits(library[reference.name], facts)
    # last, as the schedulers that settings are checked with take a while to import
    settings = make_by_key(
        requests, sampling_key, lambda request: resolve_settings(facts, request.options, listener)
    )
    _check_negative_weights(requests, settings, libraries)


def _texts(request: Request) -> list[tuple[str, bool]]:
    """What has to be read of a request, and whether it is the negative prompt."""
    sides = ((request.prompt, False), (request.negative_prompt, True))
    return [(text, negative) for text, negative in sides if isinstance(text, str)]


def _check_negative_weights(
    requests: Sequence[Request],
    settings: Sequence[Settings],
    libraries: Mapping[Hashable, Mapping[str, Embedding]],
) -> None:
    """Refuses words of negative weight that nothing takes away. Of a text without a minus there is nothing to ask."""
    asked = {
        (reading_key(request), own.prompt_steps, text, negative): request.options
        for request, own in zip(requests, settings, strict=True)
        for text, negative in _texts(request)
        if "-" in text
    }
    for (key, steps, text, negative), options in asked.items():
        references = references_in(text, libraries[key], options.dialect)
        timelines = resolve(parse(text, options.dialect, references, negative), steps)
        check_weights(weights_in(timelines), NEGATIVE_METHODS[options.negative_method])


def offered_embeddings(options: TextOptions, embeddings: Sources) -> Mapping[str, Embedding]:
    """What prompts may name, by name: a mapping alone if there is one, else sources beside those of the options.

    Raises:
        InputError: see `collect`.
    """
    if isinstance(embeddings, Mapping):
        return embeddings
    return collect(embeddings, options.embedding, options.embeddings)


def make_by_key(
    things: Sequence[Any], key: Callable[[Any], Hashable], make: Callable[[Any], Value]
) -> list[Value]:
    """What is made of each thing, in order, made once for things of equal key."""
    made: dict[Hashable, Value] = {}
    values = []
    for thing in things:
        of = key(thing)
        if of not in made:
            made[of] = make(thing)
        values.append(made[of])
    return values


def sampling_key(request: Request) -> Hashable:
    """What decides how latents are sampled: requests of equal keys have equal settings."""
    options = request.options
    return tuple(getattr(options, name) for name in SamplingOptions.model_fields)


def reading_key(request: Request) -> Hashable:
    """What decides how a request's texts are read and encoded, beside the number of steps."""
    options = request.options
    names = (*TextOptions.model_fields, "embeds", "negative_embeds", "negative_method")
    return tuple(repr(getattr(options, name)) for name in names)

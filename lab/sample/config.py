"""The options of generation, each defined once, and the images that they ask for: prompts x seeds. Imports no torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from lab.condition.conditioning import Conditioning
from lab.condition.config import TextOptions
from lab.condition.weighting import WEIGHTINGS
from lab.config import Config, ExistingFile, NewPath, one_of
from lab.errors import InputError, given_twice
from lab.models.config import ModelOptions, Source
from lab.models.schedulers import SCHEDULERS
from lab.sample.negatives import NEGATIVE_METHODS
from lab.text import read_lines

MAX_SEED = 2**64 - 1
"""The largest that `torch.Generator.manual_seed` takes."""

MAX_SEEDS = 1_000_000
"""In one run."""

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def parse_seeds(text: str) -> list[int]:
    """Reads comma-separated seeds and inclusive ranges, such as "1-4,9", in the order given.

    Raises:
        ValueError: not of that form, a range that runs backwards, a seed given twice, or one over 2^64 - 1.
    """
    seeds: list[int] = []
    for piece in text.split(","):
        match = _RANGE.fullmatch(piece.strip())
        if not match:
            raise ValueError(f"'{piece.strip()}' is no seed and no range of seeds; write them like 1-4,9")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"the range {piece.strip()} runs backwards; write {last}-{first}")
        if last > MAX_SEED:
            raise ValueError(f"seed {last} is over the largest, {MAX_SEED}")
        if len(seeds) + last - first >= MAX_SEEDS:
            raise ValueError(f"{piece.strip()} makes more than {MAX_SEEDS:,} seeds; split the run")
        seeds.extend(range(first, last + 1))
    twice = given_twice(seeds)
    if twice is not None:
        raise ValueError(f"seed {twice} is given twice")
    return seeds


def join_seeds(value: Any) -> Any:
    """Turns a seed, or a list, array or range of them, into text that `parse_seeds` reads; leaves the rest as it is."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):  # NumPy's, too
        return str(value)
    if hasattr(value, "tolist"):  # an array of NumPy's or torch's
        value = value.tolist()
    if isinstance(value, (list, tuple, range)):
        return ",".join(str(seed) for seed in value)
    return value


def _checked_seeds(text: str) -> str:
    parse_seeds(text)
    return text


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Seeds = Annotated[str, BeforeValidator(join_seeds), AfterValidator(_checked_seeds)]
"""Seeds as text for `parse_seeds`; numbers and lists of them are taken too."""

Prompts = Annotated[list[str], BeforeValidator(_as_list)]
"""A list of prompts; a single text is taken too."""


class NegativeOptions(Config):
    """How what images are to avoid acts on them."""

    negative_method: Annotated[str, one_of(NEGATIVE_METHODS, "negative method")] = "cfg"
    """How the negative prompt acts: by guidance (cfg), as Perp-Neg, NAG, NegPiP or VSF; the last three need none."""

    negative_strength: float | None = Field(None, ge=0, le=100)
    """How much the negative method does, in the method's own measure; cfg has none beside guidance."""

    negative_interval: tuple[float, float] | None = None
    """The negative prompt acts only at noise levels sigma from LOW to HIGH; elsewhere guidance leads away from none.
    From the first step on it may bring forth what it names (Ban et al. 2406.02965)."""


class SamplingOptions(NegativeOptions):
    """How latents are denoised. What is left out is the model's own default, and the record says what it was."""

    steps: int | None = Field(None, ge=1, le=1000)
    """Denoising steps."""

    guidance: float | None = Field(None, ge=0, le=100)
    """Guidance scale; 1 and below samples without guidance."""

    guidance_rescale: float | None = Field(None, ge=0, le=1)
    """Pulls the guided prediction's contrast back to the prompt's (Lin et al. 2305.08891, section 3.4)."""

    guidance_interval: tuple[float, float] | None = None
    """Guides only at noise levels sigma from LOW to HIGH (Kynkäänniemi et al. 2404.07724), which is faster."""

    scheduler: Annotated[str, one_of(SCHEDULERS, "scheduler")] | None = None
    """How denoising steps are made of predictions."""

    karras: bool = False
    """Spaces the noise levels as Karras et al. (2206.00364) do."""

    width: int | None = Field(None, ge=8, le=8192)
    """Pixels; a multiple of what the model's VAE and U-Net need."""

    height: int | None = Field(None, ge=8, le=8192)
    """Pixels; a multiple of what the model's VAE and U-Net need."""

    original_width: int | None = Field(None, ge=1)
    """SDXL size conditioning: the width that the image pretends to have had (pixels; by default its own)."""

    original_height: int | None = Field(None, ge=1)
    """SDXL size conditioning: the height that the image pretends to have had (pixels; by default its own)."""

    crop_left: int | None = Field(None, ge=0)
    """SDXL crop conditioning: pixels cut off on the left (by default 0)."""

    crop_top: int | None = Field(None, ge=0)
    """SDXL crop conditioning: pixels cut off at the top (by default 0)."""

    init_image: ExistingFile | None = None
    """Starts from this image instead of from noise alone."""

    strength: float | None = Field(None, gt=0, le=1)
    """With an init image: the share of the denoising steps that is run (0.8)."""

    controlnet: Source | None = None
    """A ControlNet (2302.05543), which holds the image to the shapes of a control image: a diffusers folder,
    `file:x.safetensors`, `hub:org/name`, or `hub:org/name/x.safetensors`."""

    control_image: ExistingFile | None = None
    """With a ControlNet: edges, depth, a pose, as it takes them; is scaled to cover the image and cut."""

    control_scale: float | None = Field(None, ge=0, le=2)
    """With a ControlNet: how much it says, diffusers' `controlnet_conditioning_scale` (1)."""

    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Images denoised together. `auto` halves on running out of memory. Images do not depend on it."""


class PromptOptions(Config):
    """What to make: prompts x seeds."""

    prompt: Prompts = Field(default_factory=list)
    """What the images show; repeatable."""

    prompt_file: ExistingFile | None = None
    """A text file with one prompt a line; empty lines and lines that begin with # are left out."""

    negative_prompt: str | None = None
    """What the images avoid. SDXL takes zeros if none is given and, in the a1111 dialect, if it is empty."""

    seeds: Seeds = "1"
    """Seeds of the noise, such as 1-4,9; every prompt is drawn with each."""

    embeds: ExistingFile | None = None
    """Prompt embeddings in place of prompts: of `lab encode --out`, or a tensor (n, d) such as others publish."""

    negative_embeds: ExistingFile | None = None
    """The same in place of a negative prompt, such as ReNeg's (2412.19637)."""

    walk: Prompts = Field(default_factory=list)
    """In place of prompts: goes from one prompt to the next, on the same noise, in steps that change the image alike,
    and writes an animation too. Repeatable."""

    frames: int = Field(16, ge=2, le=10_000)
    """Images of a walk."""

    way: Literal["linear", "spherical"] = "linear"
    """How a walk goes from prompt to prompt: straight, or along an arc."""

    out: NewPath | None = None
    """Folder for the images; by default one under outputs/ that the settings name."""


class GenerateConfig(PromptOptions, SamplingOptions, TextOptions, ModelOptions):
    """One generation run."""


@dataclass(frozen=True)
class Request:
    """One image as it is asked for.

    Attributes:
        index: The image's place among the results.
        prompt: Text, or what it was encoded to.
        negative_prompt: Text, what it was encoded to, or None if none was given, which for SDXL is the
            same as "" in the a1111 dialect alone.
        options: Everything else that makes it; its own prompts and seeds do not count, its `embeds` stand for the
            prompt and its `negative_embeds` for the negative prompt.
    """

    index: int
    prompt: str | Conditioning
    negative_prompt: str | Conditioning | None
    seed: int
    options: GenerateConfig


def read_prompts(config: GenerateConfig) -> list[str]:
    """The prompts in the order given, those of the file last.

    Raises:
        InputError: no prompt at all, prompts beside prompt embeddings, or a prompt file that is missing, empty or
            not text.
    """
    prompts = list(config.prompt)
    if config.walk:
        if prompts or config.prompt_file is not None or config.embeds is not None:
            raise InputError("walk: takes the place of prompts; give prompts or --walk, not both")
        if len(config.walk) < 2:
            raise InputError("walk: there is one prompt; give two or more with --walk")
        return list(config.walk)
    if config.prompt_file is not None:
        prompts += read_lines(config.prompt_file)
    if prompts and config.embeds is not None:
        raise InputError("embeds: take the place of prompts; give prompts or --embeds, not both")
    if not prompts and config.embeds is None:
        raise InputError("prompt: there is none; give --prompt, --prompt-file, --embeds or --walk")
    return prompts


def requests(config: GenerateConfig) -> list[Request]:
    """Every prompt of a config with every seed: prompt-major.

    Raises:
        InputError: no prompt, prompts or a negative prompt beside embeddings that stand for them, or a prompt file
            that cannot be read.
    """
    prompts = read_prompts(config)
    if config.negative_embeds is not None and config.negative_prompt is not None:
        raise InputError("negative_embeds: take the place of a negative prompt; leave one of them out")
    seeds = parse_seeds(config.seeds)
    count = max(len(prompts), 1) * len(seeds)
    if count > MAX_SEEDS:
        raise InputError(
            f"{len(prompts):,} prompts with {len(seeds):,} seeds are {count:,} images; split the run"
        )
    asked = [(prompt, seed) for prompt in prompts or [""] for seed in seeds]
    return [
        Request(index, prompt, config.negative_prompt, seed, config)
        for index, (prompt, seed) in enumerate(asked)
    ]


def config_from_record(record: Mapping[str, Any]) -> GenerateConfig:
    """The config that makes an image again, from the record that the lab wrote into it (`make_record`).

    Raises:
        InputError: settings that this version of the lab does not take.
    """
    settings = {key: value for key, value in record.items() if key in GenerateConfig.model_fields}
    if "embeds" in settings:
        del settings["prompt"]  # the text that they were encoded from
    if str(settings.get("weighting")) not in WEIGHTINGS:
        settings.pop("weighting", None)  # once, records of a plain prompt called its weighting plain
    return GenerateConfig.build(settings | {"seeds": record["seed"]}, where="record")

"""The options of generation, each defined once: YAML keys, flags and keyword arguments come from here."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from lab.condition.options import TextOptions
from lab.config import Config
from lab.models.options import ModelOptions
from lab.sample.seeds import join_seeds, parse_seeds


def _checked_seeds(text: str) -> str:
    parse_seeds(text)
    return text


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Seeds = Annotated[str, BeforeValidator(join_seeds), AfterValidator(_checked_seeds)]
Prompts = Annotated[list[str], BeforeValidator(_as_list)]


class SamplingOptions(Config):
    """How latents are denoised. What is left out is the model's own default, and the record says what it was."""

    steps: int | None = Field(None, ge=1, le=1000)
    """Denoising steps."""

    guidance: float | None = Field(None, ge=0, le=100)
    """Guidance scale; 1 and below samples without guidance."""

    guidance_rescale: float | None = Field(None, ge=0, le=1)
    """Pulls the guided prediction's contrast back to the prompt's (Lin et al. 2305.08891, section 3.4)."""

    guidance_interval: tuple[float, float] | None = None
    """Guides only at noise levels sigma from LOW to HIGH (Kynkäänniemi et al. 2404.07724), which is faster."""

    scheduler: str | None = None
    """ddim, pndm, euler, euler-a, heun, dpm++2m, dpm++2m-sde, unipc or lcm."""

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

    init_image: Path | None = None
    """Starts from this image instead of from noise alone."""

    strength: float = Field(0.8, gt=0, le=1)
    """With an init image: the share of the denoising steps that is run."""

    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Images denoised together. `auto` halves on running out of memory. Images do not depend on it."""


class PromptOptions(Config):
    """What to make: prompts x seeds."""

    prompt: Prompts = Field(default_factory=list)
    """What the images show; repeatable."""

    prompt_file: Path | None = None
    """A text file with one prompt a line; empty lines and lines that begin with # are left out."""

    negative_prompt: str | None = None
    """What the images avoid. Not given is not the same as empty for SDXL, as in diffusers."""

    seeds: Seeds = "1"
    """Seeds of the noise, such as 1-4,9; every prompt is drawn with each."""

    embeds: Path | None = None
    """Prompt embeddings that `lab encode --out` wrote, in place of prompts."""

    negative_embeds: Path | None = None
    """Prompt embeddings in place of a negative prompt: of `lab encode --out`, or learned by a reward."""

    out: Path | None = None
    """Folder for the images; by default one under outputs/ that the settings name."""


class GenerateConfig(PromptOptions, SamplingOptions, TextOptions, ModelOptions):
    """One generation run."""

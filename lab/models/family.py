"""What tells the families of Stable Diffusion apart, and what each is made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lab.encoders import encoder_key
from lab.errors import InputError
from lab.models.bundle import Family


@dataclass(frozen=True)
class FamilyTraits:
    """A family's parts.

    Attributes:
        label: What people call it.
        pipeline: The diffusers class that is equivalent.
        suffixes: Of the text encoders' folders, in the U-Net's order.
        guidance: The default guidance scale: diffusers' for SDXL, 7 for the others, between diffusers' 7.5 and
            the 6 to 8 that people use.
    """

    label: str
    pipeline: str
    suffixes: tuple[str, ...]
    guidance: float

    @property
    def parts(self) -> tuple[str, ...]:
        """The folders of a model in diffusers' layout that hold weights."""
        return ("unet", *(f"text_encoder{suffix}" for suffix in self.suffixes), "vae")


FAMILIES: dict[Family, FamilyTraits] = {
    "sd1": FamilyTraits("Stable Diffusion 1.x", "StableDiffusionPipeline", ("",), 7.0),
    "sd2": FamilyTraits("Stable Diffusion 2.x", "StableDiffusionPipeline", ("",), 7.0),
    "sdxl": FamilyTraits("Stable Diffusion XL", "StableDiffusionXLPipeline", ("", "_2"), 5.0),
}


def family_of(unet: Mapping[str, Any], text_encoder: Mapping[str, Any], where: object) -> Family:
    """Tells the family from the configs of the U-Net and of the first text encoder.

    SDXL's U-Net takes the image size and the pooled text beside the prompt (`addition_embed_type: text_time`).
    SD 1.x reads OpenAI's CLIP, whose activation is `quick_gelu`; SD 2.x reads OpenCLIP, trained with plain `gelu`.
    Widths are not used, so that models of any width have a family.

    Raises:
        InputError: an inpainting or depth model, or a U-Net that takes other conditions.
    """
    addition = unet.get("addition_embed_type")
    if addition not in (None, "text_time"):
        raise InputError(
            f"{where}: its U-Net takes '{addition}' conditions; the lab loads SD 1.x, 2.x and SDXL"
        )
    check_channels(unet.get("in_channels", 4), unet.get("out_channels", 4), where)
    if addition == "text_time":
        return "sdxl"
    return "sd2" if text_encoder.get("hidden_act") == "gelu" else "sd1"


def check_channels(taken: int, given: int, where: object) -> None:
    """Refuses U-Nets that take more than noisy latents.

    Raises:
        InputError: the U-Net takes more channels than it gives.
    """
    if taken != given:
        raise InputError(
            f"{where}: its U-Net takes {taken} channels and gives {given}, as inpainting, depth and "
            f"instruction models do; the lab loads text-to-image models"
        )


def tower_keys(family: Family, widths: list[int]) -> list[str]:
    """The names under which embeddings address the text encoders."""
    return ["clip_l", "clip_g"] if family == "sdxl" else [encoder_key(width) for width in widths]

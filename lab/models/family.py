"""The families of Stable Diffusion: one table of what tells them apart, and how a model's family is told."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from lab.errors import InputError

Family: TypeAlias = str
"""A key of `FAMILIES`."""


@dataclass(frozen=True)
class FamilyTraits:
    """What tells a family from the others.

    Attributes:
        label, short_label: What people call it.
        pipeline: The equivalent diffusers class.
        pipeline_options: What its constructor takes beside the model's parts.
        suffixes: Of the folders of the text encoders and tokenizers, in the U-Net's order.
        encoders: The names under which embeddings address the text encoders of the published models, and their widths.
        checkpoint_prefixes: Of each text encoder's tensors in a single file in the layout of the original code.
        modelspec: How ModelSpec (kohya's library/sai_model_spec.py) calls its architecture.
        guidance: The default guidance scale: diffusers' for SDXL, 7 for the others, between diffusers' 7.5 and
            the 6 to 8 that people use.
        addition_embed_type, activation: What the configs of the U-Net and of the first text encoder (`hidden_act`) say.
        hidden_layer: Which hidden state of a text encoder conditions the U-Net, counted from the end.
        final_norm: That state goes through the encoder's final LayerNorm.
        size_conditioning: The U-Net also takes the pooled text, and the size and crop of the image.
        zeros_without_negative: A negative prompt that is not given means zeros, unless the model says otherwise.
    """

    label: str
    short_label: str
    pipeline: str
    suffixes: tuple[str, ...]
    encoders: tuple[tuple[str, int], ...]
    checkpoint_prefixes: tuple[str, ...]
    modelspec: str
    pipeline_options: Mapping[str, Any] = field(default_factory=dict)
    guidance: float = 7.0
    addition_embed_type: str | None = None
    activation: str = "quick_gelu"
    hidden_layer: int = 1
    final_norm: bool = True
    size_conditioning: bool = False
    zeros_without_negative: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """The folders of a model in diffusers' layout that hold weights."""
        return ("unet", *(f"text_encoder{suffix}" for suffix in self.suffixes), "vae")

    @property
    def encoder_keys(self) -> tuple[str, ...]:
        """The names under which embeddings address the text encoders of the published models."""
        return tuple(key for key, _ in self.encoders)

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths of the published models' text encoders."""
        return tuple(width for _, width in self.encoders)


_WITHOUT_SAFETY_CHECKER = {
    "safety_checker": None,
    "feature_extractor": None,
    "requires_safety_checker": False,
}

FAMILIES: dict[Family, FamilyTraits] = {
    "sd1": FamilyTraits(
        label="Stable Diffusion 1.x",
        short_label="SD 1.x",
        pipeline="StableDiffusionPipeline",
        pipeline_options=_WITHOUT_SAFETY_CHECKER,
        suffixes=("",),
        encoders=(("clip_l", 768),),
        checkpoint_prefixes=("cond_stage_model.transformer.",),
        modelspec="stable-diffusion-v1",
    ),
    "sd2": FamilyTraits(
        label="Stable Diffusion 2.x",
        short_label="SD 2.x",
        pipeline="StableDiffusionPipeline",
        pipeline_options=_WITHOUT_SAFETY_CHECKER,
        suffixes=("",),
        encoders=(("clip_h", 1024),),
        checkpoint_prefixes=("cond_stage_model.model.",),
        modelspec="stable-diffusion-v2-512",  # which has another name at 768 px
        activation="gelu",
    ),
    "sdxl": FamilyTraits(
        label="Stable Diffusion XL",
        short_label="SDXL",
        pipeline="StableDiffusionXLPipeline",
        pipeline_options={"add_watermarker": False},
        suffixes=("", "_2"),
        encoders=(("clip_l", 768), ("clip_g", 1280)),
        checkpoint_prefixes=("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),
        modelspec="stable-diffusion-xl-v1-base",
        guidance=5.0,
        addition_embed_type="text_time",
        hidden_layer=2,
        final_norm=False,
        size_conditioning=True,
        zeros_without_negative=True,
    ),
}


def family_of(unet: Mapping[str, Any], text_encoder: Mapping[str, Any], where: object) -> Family:
    """Tells the family from the configs of the U-Net and of the first text encoder.

    SDXL's U-Net takes the image size and the pooled text beside the prompt (`addition_embed_type: text_time`).
    SD 1.x reads OpenAI's CLIP, whose activation is `quick_gelu`; SD 2.x reads OpenCLIP, trained with plain `gelu`.
    Widths are not used, so that models of any width have a family.

    Args:
        where: Names the model in errors.

    Raises:
        InputError: an inpainting or depth model, or a U-Net that takes other conditions.
    """
    addition = unet.get("addition_embed_type")
    alike = [name for name, traits in FAMILIES.items() if traits.addition_embed_type == addition]
    if not alike:
        raise InputError(
            f"{where}: its U-Net takes '{addition}' conditions; the lab loads {known_families()}"
        )
    check_channels(unet.get("in_channels", 4), unet.get("out_channels", 4), where)
    activation = text_encoder.get("hidden_act")
    return next((name for name in alike if FAMILIES[name].activation == activation), alike[0])


def known_families(conjunction: str = "and") -> str:
    """The families' names, for people."""
    *others, last = (traits.short_label for traits in FAMILIES.values())
    return f"{', '.join(others)} {conjunction} {last}"


def check_channels(taken: int, given: int, where: object) -> None:
    """Refuses U-Nets that take more than noisy latents.

    Args:
        taken, given: The channels of what goes in and of what comes out.
        where: Names the model in errors.

    Raises:
        InputError: the U-Net takes more channels than it gives.
    """
    if taken != given:
        raise InputError(
            f"{where}: its U-Net takes {taken} channels and gives {given}, as inpainting, depth and "
            f"instruction models do; the lab loads text-to-image models"
        )


def encoder_key(width: int) -> str:
    """The name of the text encoder that has this width in the published models; any other width is plain `clip`."""
    widths = {width: key for traits in FAMILIES.values() for key, width in traits.encoders}
    return widths.get(width, "clip")


def encoder_keys(family: Family, widths: Sequence[int]) -> list[str]:
    """The names under which embeddings address a model's text encoders.

    Several encoders are told by their places, a single one by its width, which need not be a published model's.

    Args:
        widths: Of the encoders, in the U-Net's order.
    """
    keys = FAMILIES[family].encoder_keys
    return list(keys) if len(keys) > 1 else [encoder_key(width) for width in widths]


def family_with_keys(keys: Iterable[str]) -> FamilyTraits | None:
    """The family whose text encoders have these names, such as `clip_l` and `clip_g`; None if there is none."""
    wanted = sorted(keys)
    return next((traits for traits in FAMILIES.values() if sorted(traits.encoder_keys) == wanted), None)


def family_with_widths(widths: Iterable[int]) -> FamilyTraits | None:
    """The family whose published text encoders are so wide; None if there is none."""
    wanted = sorted(widths)
    return next((traits for traits in FAMILIES.values() if sorted(traits.widths) == wanted), None)

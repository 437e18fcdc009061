"""What a model's configs say before its weights are read, and what can be refused by them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field

from lab.config import Config, one_of
from lab.errors import InputError
from lab.files import read_json
from lab.listening import Listener
from lab.models.config import ModelOptions, split_lora
from lab.models.detection import (
    GUIDED_STEP,
    by_published_names,
    check_folder,
    file_family,
    file_marks,
    folder_family,
)
from lab.models.family import FAMILIES, Family, FamilyTraits, encoder_keys
from lab.models.file_kinds import BUNDLED_EMBEDDING, LORA, file_kind
from lab.models.part_configs import read_part_config
from lab.models.schedulers import SCHEDULERS, USUAL, scheduler_name
from lab.models.source import locate, locate_part
from lab.models.weights import check_floating, read_header, read_metadata

CONFIGS = Path(__file__).parent / "configs"
"""Configs of the published architectures, by family: a single file has none."""


class GenerationDefaults(Config):
    """What a model is best sampled with, where neither flags nor config say otherwise.

    A model folder may say it in a `generation_config.json` with these keys.
    """

    steps: int = Field(25, ge=1, le=1000)
    guidance: float = Field(7.0, ge=0, le=100)
    guidance_rescale: float = Field(0.0, ge=0, le=1)
    guidance_interval: tuple[float, float] | None = None
    scheduler: Annotated[str, one_of(SCHEDULERS, "scheduler")] = USUAL
    width: int = Field(512, ge=1, le=8192)
    height: int = Field(512, ge=1, le=8192)


def vae_scale(config: Mapping[str, Any]) -> int:
    """Pixels per latent, along each side, of a VAE with this config."""
    return 2 ** (len(config["block_out_channels"]) - 1)


def _generation_defaults(
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


@dataclass(frozen=True)
class ModelFacts:
    """A model as its configs describe it.

    Attributes:
        source: What was asked for, for messages.
        root, vae_root: The folder or file of the model, and of another VAE if one was asked for.
        unet, vae, scheduler_config: The parts' configs; of the scheduler, with an overridden prediction type.
        text_encoders: Their configs, in the U-Net's order.
    """

    source: str
    family: Family
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_encoders: tuple[Mapping[str, Any], ...]
    scheduler_config: Mapping[str, Any]
    defaults: GenerationDefaults
    root: Path
    vae_root: Path | None = None

    @property
    def traits(self) -> FamilyTraits:
        """What the model's family is like."""
        return FAMILIES[self.family]

    @property
    def prediction_type(self) -> str:
        """What the U-Net predicts: `epsilon` or `v_prediction`."""
        return self.scheduler_config.get("prediction_type", "epsilon")

    @property
    def widths(self) -> dict[str, int]:
        """The width of each text encoder, by the name under which embeddings address it."""
        widths = [config["hidden_size"] for config in self.text_encoders]
        return dict(zip(encoder_keys(self.family, widths), widths, strict=True))

    @property
    def size_multiple(self) -> int:
        """Pixels of which an image's sides must be a multiple: the VAE's scale, once more halved by the U-Net."""
        return vae_scale(self.vae) * 2 ** (len(self.unet["block_out_channels"]) - 1)

    @property
    def cross_attention_layers(self) -> int:
        """How many layers of the U-Net read the prompt embeddings (16 in SD 1.x), as diffusers builds it."""
        blocks = list(self.unet["down_block_types"])
        layers, depths = (
            list(value) if isinstance(value, (list, tuple)) else [value] * len(blocks)
            for value in (
                self.unet.get("layers_per_block", 2),
                self.unet.get("transformer_layers_per_block", 1),
            )
        )
        sides = (
            zip(blocks, layers, depths, strict=True),
            zip(
                self.unet["up_block_types"],
                (each + 1 for each in reversed(layers)),
                reversed(depths),
                strict=True,
            ),
        )
        middle = "CrossAttn" in (self.unet.get("mid_block_type", "UNetMidBlock2DCrossAttn") or "")
        found = sum(count * depth for side in sides for block, count, depth in side if "CrossAttn" in block)
        return found + (depths[-1] if middle else 0)


def read_facts(
    options: ModelOptions, listener: Listener = Listener(), without_vae: bool = False
) -> ModelFacts:
    """Finds a model and reads its configs; a hub model is fetched. Torch is not imported.

    Args:
        without_vae: A single file may lack its VAE, as it may where another one is given.

    Raises:
        InputError: no such model, VAE or LoRA, a missing part, a family that the lab does not load, or a LoRA for
            another family.
    """
    root = locate(options.model, options.revision, options.variant, listener)
    if root.is_dir():
        facts = _folder_facts(root, options)
    else:
        facts = _file_facts(root, options, without_vae or options.vae is not None)
    if options.vae:
        vae_root = locate_part(options.vae, "vae", listener)
        facts = replace(facts, vae=_vae_config(vae_root) or facts.vae, vae_root=vae_root)
    for text in options.lora:
        check_lora(split_lora(text)[0], facts)
    return facts


def check_lora(path: Path, facts: ModelFacts) -> None:
    """Refuses what is no LoRA, and one whose U-Net layers read prompt embeddings of another width than the model's.

    Raises:
        InputError: another kind of file, a width that is not the model's (with both), or a damaged file.
    """
    width = facts.unet.get("cross_attention_dim")
    header = read_header(path)
    kind = file_kind([name for name in header if not name.startswith(BUNDLED_EMBEDDING)] or header)
    if kind is not None and kind != LORA:
        raise InputError(f"{path}: {kind.instead_of('a LoRA')}")
    for name, info in header.items():
        reads_text = "attn2" in name and ("to_k" in name or "to_v" in name)
        if reads_text and ("lora_down" in name or "lora_A" in name) and info.shape[-1] != width:
            raise InputError(
                f"{path}: this LoRA is for a U-Net that reads prompt embeddings {info.shape[-1]} wide, and "
                f"{facts.source}'s are {width} wide; use one made for {facts.traits.short_label}"
            )


def check_clip_skip(clip_skip: int, facts: ModelFacts) -> None:
    """Refuses to leave out more layers than the model's text encoders have.

    Raises:
        InputError: with the number of layers.
    """
    for config in facts.text_encoders:
        layers_back(facts.family, config["num_hidden_layers"], clip_skip)


def layers_back(family: Family, layers: int, clip_skip: int) -> int:
    """Which hidden state conditions the U-Net, counted from the end: k + 1 for SD 1.x and 2.x, k + 2 for SDXL.

    Args:
        layers: That the text encoder has.
        clip_skip: Layers left out at its end, 0 for none.

    Raises:
        InputError: the encoder has no such layer.
    """
    least = FAMILIES[family].hidden_layer
    if clip_skip + least > layers:
        raise InputError(
            f"clip skip {clip_skip}: the text encoder has {layers} layers; use 0 to {layers - least}"
        )
    return clip_skip + least


def _vae_config(root: Path) -> dict[str, Any] | None:
    """The config of a VAE's or a model's folder; None of a single file, which is read by the model's own."""
    paths = (root / "vae" / "config.json", root / "config.json")
    path = next((path for path in paths if path.is_file()), None)
    return read_part_config(path, "vae") if path else None


def _folder_facts(root: Path, options: ModelOptions) -> ModelFacts:
    family = folder_family(root)
    check_folder(root, family, options.variant)
    return _facts(root, family, [root], options)


def _file_facts(path: Path, options: ModelOptions, without_vae: bool) -> ModelFacts:
    header = by_published_names(read_header(path))
    family = file_family(header, path, without_vae)
    check_floating(header, path)
    marks: dict[str, Any] = {}
    given = [options.config_folder] if options.config_folder else []
    for mark in file_marks(path, header, family, read_metadata(path), guess=not given):
        marks |= mark.settings
    unet: dict[str, Any] = {}
    if (
        family == "sd2"
        and "epsilon" in (options.prediction_type or marks.get("prediction_type"),)
        and not given
    ):
        unet["sample_size"] = 64  # the noise-predicting models are the 512 px ones
    if GUIDED_STEP in header:
        unet["time_cond_proj_dim"] = header[GUIDED_STEP].shape[1]
    return _facts(path, family, [*given, CONFIGS / family], options, unet, marks)


def _facts(
    root: Path,
    family: Family,
    folders: list[Path],
    options: ModelOptions,
    unet_changes: Mapping[str, Any] = MappingProxyType({}),
    scheduler_changes: Mapping[str, Any] = MappingProxyType({}),
) -> ModelFacts:
    """Facts from the first of the folders that has each config."""

    def config(part: str, name: str = "config.json") -> dict[str, Any]:
        paths = [folder / part / name for folder in folders]
        return read_part_config(next((path for path in paths if path.is_file()), paths[-1]), part)

    override = {"prediction_type": options.prediction_type} if options.prediction_type else {}
    unet, vae = {**config("unet"), **unet_changes}, config("vae")
    scheduler = {**config("scheduler", "scheduler_config.json"), **scheduler_changes, **override}
    return ModelFacts(
        source=options.model,
        family=family,
        unet=unet,
        vae=vae,
        text_encoders=tuple(config(f"text_encoder{suffix}") for suffix in FAMILIES[family].suffixes),
        scheduler_config=scheduler,
        defaults=_generation_defaults(family, unet, vae, scheduler, root),
        root=root,
    )

"""Reads models from folders in diffusers' layout."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers import AutoencoderKL, ModelMixin, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, PreTrainedModel

from lab.errors import InputError
from lab.files import read_json
from lab.models.detection import check_folder
from lab.models.family import FAMILIES, Family
from lab.models.libraries import one_line_errors
from lab.models.weights import pick_weights, read_header, uses_variant

Encoder: TypeAlias = CLIPTextModel | CLIPTextModelWithProjection


@dataclass(frozen=True)
class Parts:
    """A model's parts on the CPU: the U-Net in the wanted precision, the rest in float32.

    Attributes:
        settings: Of `model_index.json`, or empty.
        weights: The files that were read, by part; `checkpoint` holds a single file.
    """

    tokenizers: list[CLIPTokenizer]
    encoders: list[Encoder]
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    settings: Mapping[str, Any]
    weights: Mapping[str, tuple[Path, ...]]


def encoder_class(suffix: str) -> type[CLIPTextModel] | type[CLIPTextModelWithProjection]:
    """SDXL's second text encoder, whose folder has the suffix `_2`, also projects the pooled text."""
    return CLIPTextModelWithProjection if suffix else CLIPTextModel


def read_folder(root: Path, family: Family, variant: str | None, dtype: torch.dtype) -> Parts:
    """Loads every part of a model.

    Raises:
        InputError: a missing part (which), or damaged files.
    """
    files = check_folder(root, family, variant)
    weights = {part: tuple(root / name for name in names) for part, names in files.items()}
    for path in (path for paths in weights.values() for path in paths):
        read_header(path)

    towers = read_encoders(root, family, variant)
    return Parts(
        tokenizers=[tokenizer for tokenizer, _ in towers],
        encoders=[encoder for _, encoder in towers],
        unet=_read_part(UNet2DConditionModel, root, "unet", variant, dtype),
        vae=_read_part(AutoencoderKL, root, "vae", variant),
        settings=read_json(root / "model_index.json") if (root / "model_index.json").is_file() else {},
        weights=weights,
    )


def read_encoders(
    root: Path, family: Family, variant: str | None
) -> list[tuple[CLIPTokenizer, PreTrainedModel]]:
    """Loads the tokenizers and text encoders alone, in the U-Net's order.

    Raises:
        InputError: damaged files.
    """
    return [
        (
            read_tokenizer(root / f"tokenizer{suffix}"),
            _read_part(encoder_class(suffix), root, f"text_encoder{suffix}", variant),
        )
        for suffix in FAMILIES[family].suffixes
    ]


def read_tokenizer(folder: Path) -> CLIPTokenizer:
    """Loads a tokenizer.

    Raises:
        InputError: damaged files.
    """
    with one_line_errors(f"{folder}: cannot load the tokenizer"):
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def _read_part(
    kind: type[ModelMixin] | type[PreTrainedModel],
    root: Path,
    part: str,
    variant: str | None,
    dtype: torch.dtype = torch.float32,
) -> Any:
    names = [path.relative_to(root).as_posix() for path in (root / part).glob("*")]
    used = variant if uses_variant(pick_weights(names, part, variant), variant) else None
    return read_module(kind, root / part, used, dtype)


def read_module(
    kind: type[ModelMixin] | type[PreTrainedModel], folder: Path, variant: str | None, dtype: torch.dtype
) -> Any:
    """Loads a U-Net, VAE or text encoder, complete and in evaluation mode.

    Raises:
        InputError: weights that do not fit the config, or that lack a tensor.
    """
    precision = "dtype" if issubclass(kind, PreTrainedModel) else "torch_dtype"
    with one_line_errors(f"{folder}: cannot load it"):
        module, report = kind.from_pretrained(
            folder,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **{precision: dtype},
        )
    absent = sorted(report["missing_keys"])
    if absent:
        raise InputError(
            f"{folder}: its weights lack {len(absent)} tensors of its config, among them {absent[0]}"
        )
    return module.eval()

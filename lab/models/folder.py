"""Reads models from folders in diffusers' layout."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers import AutoencoderKL, ModelMixin, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, PreTrainedModel

from lab.errors import InputError
from lab.models.bundle import Family
from lab.models.family import FAMILIES, family_of
from lab.models.libraries import refusing
from lab.models.weights import HOW_TO_CONVERT, PICKLES, pick_weights, read_header, uses_variant, variants

Encoder: TypeAlias = CLIPTextModel | CLIPTextModelWithProjection


@dataclass(frozen=True)
class Parts:
    """A model's parts on the CPU: the U-Net in the wanted precision, the rest in float32.

    Attributes:
        settings: Of `model_index.json`, or empty.
        weights: The files that were read, by part; `checkpoint` holds a single file.
    """

    family: Family
    tokenizers: list[CLIPTokenizer]
    encoders: list[Encoder]
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    scheduler: Mapping[str, Any]
    settings: Mapping[str, Any]
    weights: Mapping[str, tuple[Path, ...]]


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        InputError: no such file, unreadable, or not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, and the model needs it") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def encoder_class(suffix: str) -> type[CLIPTextModel] | type[CLIPTextModelWithProjection]:
    """SDXL's second text encoder, whose folder has the suffix `_2`, also projects the pooled text."""
    return CLIPTextModelWithProjection if suffix else CLIPTextModel


VOCABULARIES = ({"tokenizer.json"}, {"vocab.json", "merges.txt"})


def read_folder(root: Path, variant: str | None, dtype: torch.dtype) -> Parts:
    """Loads every part of a model.

    Raises:
        InputError: a missing part (which), a family that the lab does not load, or damaged files.
    """
    family = folder_family(root)
    files = check_folder(root, family, variant)
    weights = {part: tuple(root / name for name in names) for part, names in files.items()}
    for path in (path for paths in weights.values() for path in paths):
        read_header(path)

    towers = read_encoders(root, family, variant)
    return Parts(
        family=family,
        tokenizers=[tokenizer for tokenizer, _ in towers],
        encoders=[encoder for _, encoder in towers],
        unet=_read_part(UNet2DConditionModel, root, "unet", variant, dtype),
        vae=_read_part(AutoencoderKL, root, "vae", variant),
        scheduler=read_json(root / "scheduler" / "scheduler_config.json"),
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


def folder_family(root: Path) -> Family:
    """Tells a folder's family from its configs.

    Raises:
        InputError: no U-Net or text encoder config, or a family that the lab does not load.
    """
    for part in ("unet", "text_encoder"):
        if not (root / part / "config.json").is_file():
            known = "the lab loads diffusers folders of SD 1.x, 2.x and SDXL"
            raise InputError(f"{root}: has no {part}/config.json; {known}{_contents(root)}")
    unet, text_encoder = (read_json(root / part / "config.json") for part in ("unet", "text_encoder"))
    return family_of(unet, text_encoder, root)


def check_folder(root: Path, family: Family, variant: str | None) -> dict[str, list[str]]:
    """Returns the weight files of each part, relative to the folder.

    Raises:
        InputError: names every missing part, or says that there are only pickles.
    """
    traits = FAMILIES[family]
    names = [path.relative_to(root).as_posix() for path in root.glob("*/*")]
    files = {part: pick_weights(names, part, variant) for part in traits.parts}
    configs = [f"{part}/config.json" for part in traits.parts] + ["scheduler/scheduler_config.json"]
    missing = [name for name in configs if name not in names]
    missing += [
        f"tokenizer{s}/tokenizer.json" for s in traits.suffixes if not has_vocabulary(names, f"tokenizer{s}")
    ]
    missing += [f"{part}/*.safetensors" for part, found in files.items() if not found]
    if missing:
        wanted = f"{root}: a {traits.label} folder without {', '.join(missing)}"
        others = variants(names)
        if others and variant not in others:
            raise InputError(f"{wanted}; it has variants: use --variant {' or '.join(others)}")
        pickles = any(Path(name).suffix in PICKLES for name in names)
        weights_missing = any(name.endswith("*.safetensors") for name in missing)
        raise InputError(f"{wanted}; {HOW_TO_CONVERT}" if pickles and weights_missing else wanted)
    if variant and not any(uses_variant(found, variant) for found in files.values()):
        raise InputError(f"{root}: no part has a '{variant}' variant; leave out --variant")
    return files


def has_vocabulary(names: Iterable[str], part: str) -> bool:
    """True if the files of a tokenizer's folder are enough to make it."""
    found = {name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/")}
    return any(vocabulary <= found for vocabulary in VOCABULARIES)


def read_tokenizer(folder: Path) -> CLIPTokenizer:
    """Loads a tokenizer.

    Raises:
        InputError: damaged files.
    """
    with refusing(f"{folder}: cannot load the tokenizer"):
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
    with refusing(f"{folder}: cannot load it"):
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


def _contents(root: Path) -> str:
    """What the folder is instead, as far as one can tell."""
    if (root / "model_index.json").is_file():
        return (
            f"; this is a {read_json(root / 'model_index.json').get('_class_name', 'model of another kind')}"
        )
    files = sorted(path.name for path in root.glob("*.safetensors"))
    return f"; for a single-file model write file:{root / files[0]}" if files else ""

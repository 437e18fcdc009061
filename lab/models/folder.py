"""Reads models and their parts from folders in diffusers' layout, with the libraries' noise kept to one line."""

import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, ModelMixin, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from lab.errors import InputError
from lab.files import read_json
from lab.models.detection import check_folder
from lab.models.family import FAMILIES, Family
from lab.models.part_configs import read_part_config
from lab.models.source import part_weights
from lab.models.weights import check_floating, pick_weights, read_header, uses_variant

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
    """A text encoder's class, by its folder's suffix: SDXL's second one (`_2`) also projects the pooled text."""
    return CLIPTextModelWithProjection if suffix else CLIPTextModel


def read_folder(
    root: Path, family: Family, variant: str | None, dtype: torch.dtype, text_only: bool = False
) -> Parts:
    """Loads every part of a model; with `text_only` the U-Net and the VAE get no weights (see `load_options`).

    Raises:
        InputError: a missing part (which), or damaged files.
    """
    files = check_folder(root, family, variant)
    weights = {part: tuple(root / name for name in names) for part, names in files.items()}
    for path in (path for paths in weights.values() for path in paths):
        check_floating(read_header(path), path)
    suffixes = FAMILIES[family].suffixes
    if text_only:
        unet = without_weights(UNet2DConditionModel, root / "unet", dtype)
        vae = without_weights(AutoencoderKL, root / "vae")
    else:
        unet = _read_module_of(UNet2DConditionModel, root, "unet", variant, dtype)
        vae = _read_module_of(AutoencoderKL, root, "vae", variant)
    return Parts(
        tokenizers=[read_tokenizer(root / f"tokenizer{suffix}") for suffix in suffixes],
        encoders=[
            _read_module_of(encoder_class(suffix), root, f"text_encoder{suffix}", variant)
            for suffix in suffixes
        ],
        unet=unet,
        vae=vae,
        settings=read_json(root / "model_index.json") if (root / "model_index.json").is_file() else {},
        weights=weights,
    )


def without_weights(kind: type[ModelMixin], folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """A U-Net or VAE by the config in a folder, with shapes and no memory: its tensors are on torch's meta device.

    Raises:
        InputError: a config that its class does not take.
    """
    with one_line_errors(f"{folder}: cannot make it"), init_empty_weights():
        return kind.from_config(kind.load_config(folder)).to(dtype).eval()


def read_tokenizer(folder: Path) -> CLIPTokenizer:
    """Loads CLIP's tokenizer from a folder with its vocabulary.

    Raises:
        InputError: damaged files.
    """
    if (folder / "tokenizer_config.json").is_file():
        read_part_config(folder / "tokenizer_config.json", "tokenizer")
    try:
        with one_line_errors(f"{folder}: cannot load the tokenizer"):
            return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except InputError:
        for path in sorted(folder.glob("*.json")):
            read_json(path)  # which says it better, if one of them is no JSON object
        raise


def _read_module_of(
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
    """Loads a U-Net, VAE, text encoder or CLIPModel, complete and in evaluation mode, on the CPU.

    Args:
        folder: Its own, with config and weights.
        variant: Of the weights, such as `fp16`, or None for the plain ones.
        dtype: The precision that the weights get.

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


def read_vae(root: Path, like: AutoencoderKL) -> tuple[AutoencoderKL, tuple[Path, ...]]:
    """Loads a VAE in float32.

    Args:
        root: A VAE's diffusers folder, a model's folder with `vae/` in it, or a safetensors file in the layout of the
            original code, with or without the prefix that it has in whole checkpoints.
        like: The VAE whose config a single file is read by.

    Returns:
        The VAE and its weight files.

    Raises:
        InputError: no such VAE, damaged files, or weights that do not fit.
    """
    if root.is_file():
        read_header(root)
        return _read_vae_file(root, like), (root,)
    folder = root / "vae" if (root / "vae" / "config.json").is_file() else root
    names = [path.name for path in folder.iterdir()]
    variant, weights = part_weights(names, "vae")
    files = tuple(folder / name for name in weights)
    if "config.json" not in names or not files:
        raise InputError(
            f"{root}: no VAE; a VAE's folder has config.json and diffusion_pytorch_model.safetensors"
        )
    for file in files:
        read_header(file)
    return read_module(AutoencoderKL, folder, variant, torch.float32), files


def _read_vae_file(path: Path, like: AutoencoderKL) -> AutoencoderKL:
    with tempfile.TemporaryDirectory() as config, one_line_errors(f"{path}: no VAE like the model's"):
        like.save_config(config)
        vae = AutoencoderKL.from_single_file(
            str(path), config=config, local_files_only=True, torch_dtype=torch.float32
        )
    if any(tensor.is_meta for tensor in vae.parameters()):
        raise InputError(f"{path}: no VAE like the model's: it lacks tensors")
    return vae.eval()


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Turns off the warnings, progress bars and log lines of diffusers and transformers inside the block."""
    libraries = (diffusers_logging, transformers_logging)
    levels = [library.get_verbosity() for library in libraries]
    bars = [library.is_progress_bar_enabled() for library in libraries]
    for library in libraries:
        library.set_verbosity(library.CRITICAL)
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for library, level, bar in zip(libraries, levels, bars, strict=True):
            library.set_verbosity(level)
            if bar:
                library.enable_progress_bar()


@contextmanager
def one_line_errors(problem: str, advice: str = "") -> Iterator[None]:
    """Turns whatever the libraries raise for files that are damaged or do not fit into one line.

    They raise nearly every built-in exception and some of their own, so all are caught: put nothing but a library's
    call under it. They print nothing meanwhile.

    Args:
        problem: What does not work, with the file's name.
        advice: What to do about it, behind the library's reason.

    Raises:
        InputError: the problem, the first line of the error, and the advice.
    """
    try:
        with quiet_libraries():
            yield
    except Exception as error:
        raise InputError(f"{problem}: {first_line(error)}{advice}") from None


def first_line(error: Exception) -> str:
    """What a library's error says first; the rest is advice for its own users."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if "ignore_mismatched_sizes" in str(error):  # transformers names no tensor, diffusers does
        found = re.search(r"(\S+) expected shape \S+\(\[(.*?)\]\), but got \S+\(\[(.*?)\]\)", lines[0])
        which = f": {found[1]} is ({found[3]}), not ({found[2]})" if found else ""
        return f"its weights have other shapes than its config says{which}"
    if lines[0].endswith(":") and len(lines) > 1:
        return lines[1].strip().removeprefix("ValueError: ").removeprefix("TypeError: ")
    return lines[0]

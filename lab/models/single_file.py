"""Reads whole checkpoints in one safetensors file, in the layout of the original Stable Diffusion code.

The family is told by the tensors' names and shapes. Diffusers converts them by configs that `configs/` holds for
the published architectures. A file has no tokenizer: that comes from the given config folder, or is CLIP's own, whose
vocabulary is in `clip-tokenizer/`.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    create_diffusers_clip_model_from_ldm,
)
from safetensors.torch import load_file

from lab.errors import InputError
from lab.files import read_json
from lab.models.detection import DISTILLED, GUIDED_STEP, VOCABULARIES, by_published_names
from lab.models.facts import CONFIGS, ModelFacts
from lab.models.family import FAMILIES, Family
from lab.models.folder import (
    Parts,
    encoder_class,
    one_line_errors,
    quiet_libraries,
    read_tokenizer,
    without_weights,
)

CLIP_VOCABULARY = Path(__file__).parent / "clip-tokenizer"
"""Of the tokenizer that every published Stable Diffusion model uses; the padding is in each family's configs."""


def read_single_file(
    path: Path, facts: ModelFacts, config_folder: Path | None, dtype: torch.dtype, text_only: bool = False
) -> Parts:
    """Loads every part of a model from one file; with `text_only` the U-Net and the VAE get no weights.

    Args:
        facts: What `read_facts` tells of the file.
        config_folder: A diffusers folder, without weights, whose configs and tokenizers come before the lab's own;
            or just a folder with CLIP's vocabulary.

    Raises:
        InputError: damaged, or not fitting the configs.
    """
    family = facts.family
    with tempfile.TemporaryDirectory() as folder:
        configs = Path(folder)
        gather_configs(configs, family, config_folder)
        (configs / "unet" / "config.json").write_text(json.dumps(dict(facts.unet)), encoding="utf-8")
        tokenizers = [read_tokenizer(configs / f"tokenizer{suffix}") for suffix in FAMILIES[family].suffixes]
        without = {"unet", "vae"} if text_only else {"vae"} if facts.vae_root is not None else set()
        modules = _convert(path, configs, family, without)
        with quiet_libraries():
            modules["unet"].to(dtype)
        settings = read_json(configs / "model_index.json")
    return Parts(
        tokenizers=tokenizers,
        encoders=[modules[f"text_encoder{suffix}"].float().eval() for suffix in FAMILIES[family].suffixes],
        unet=modules["unet"].eval(),
        vae=modules["vae"].eval() if "vae" in without else modules["vae"].float().eval(),
        settings=settings,
        weights={"checkpoint": (path,)},
    )


def gather_configs(into: Path, family: Family, given: Path | None) -> None:
    """Lays the given configs over the lab's own, and a vocabulary beside each tokenizer's config."""
    shutil.copytree(CONFIGS / family, into, dirs_exist_ok=True)
    if given is not None:
        weights = shutil.ignore_patterns("*.safetensors*", "*.bin*", "*.msgpack", "*.onnx*", ".git")
        shutil.copytree(given, into, dirs_exist_ok=True, ignore=weights)
    for suffix in FAMILIES[family].suffixes:
        tokenizer = into / f"tokenizer{suffix}"
        if _vocabulary(tokenizer) is None:
            found = (_vocabulary(folder) for folder in (into, into / "tokenizer", CLIP_VOCABULARY))
            for file in next(filter(None, found)):
                shutil.copy(file, tokenizer / file.name)


def _vocabulary(folder: Path) -> list[Path] | None:
    for names in VOCABULARIES:
        files = [folder / name for name in sorted(names)]
        if all(file.is_file() for file in files):
            return files
    return None


_CONVERTED = (
    ("unet", UNet2DConditionModel, convert_ldm_unet_checkpoint),
    ("vae", AutoencoderKL, convert_ldm_vae_checkpoint),
)


def _convert(path: Path, configs: Path, family: Family, without: set[str]) -> dict[str, Any]:
    """Diffusers' own conversion, from local configs alone; the parts in `without` get no weights."""
    label = FAMILIES[family].label
    modules: dict[str, Any] = {}
    with one_line_errors(
        f"{path}: does not fit the configs of {label}", "; give the model's own by --config-folder"
    ):
        tensors = by_published_names(load_file(path))
        for suffix in FAMILIES[family].suffixes:
            modules[f"text_encoder{suffix}"] = create_diffusers_clip_model_from_ldm(
                encoder_class(suffix), tensors, f"text_encoder{suffix}", str(configs), local_files_only=True
            )
        for name, kind, convert in _CONVERTED:
            modules[name] = without_weights(kind, configs / name)
            if name not in without:
                converted = convert(dict(tensors), config=modules[name].config)
                if name == "unet" and GUIDED_STEP in tensors:  # which diffusers' conversion leaves out
                    converted[DISTILLED] = tensors[GUIDED_STEP]
                modules[name].load_state_dict(converted, strict=False, assign=True)
    for name, module in modules.items():
        absent = [key for key, tensor in module.named_parameters() if tensor.is_meta]
        if absent and name not in without:
            raise InputError(
                f"{path}: its {name} lacks {len(absent)} tensors of {label}, among them {absent[0]}; if it was made "
                "smaller, give its own configs by --config-folder"
            )
    return modules

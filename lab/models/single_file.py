"""Reads whole checkpoints in one safetensors file, in the layout of the original Stable Diffusion code.

The family is told by the tensors' names and shapes. Diffusers converts them by configs that `configs/` holds for
the published architectures. A file has no tokenizer: that comes from the given config folder, or is CLIP's own, whose
vocabulary is in `clip-tokenizer/`.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import diffusers
import torch

from lab.errors import InputError
from lab.files import read_json
from lab.models.describe import CONFIGS, VOCABULARIES
from lab.models.facts import ModelFacts
from lab.models.family import FAMILIES, Family
from lab.models.folder import Parts, read_tokenizer
from lab.models.libraries import one_line_errors, quiet

CLIP_VOCABULARY = Path(__file__).parent / "clip-tokenizer"
"""Of the tokenizer that every published Stable Diffusion model uses; the padding is in each family's configs."""


def read_file(path: Path, facts: ModelFacts, config_folder: Path | None, dtype: torch.dtype) -> Parts:
    """Loads every part of a model from one file.

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
        tokenizers = [read_tokenizer(configs / f"tokenizer{suffix}") for suffix in FAMILIES[family].suffixes]
        modules = _convert(path, configs, family, tokenizers)
        with quiet():
            modules["unet"].to(dtype)
        settings = read_json(configs / "model_index.json")
    modules["unet"].register_to_config(sample_size=facts.unet.get("sample_size"))
    return Parts(
        tokenizers=tokenizers,
        encoders=[modules[f"text_encoder{suffix}"].float().eval() for suffix in FAMILIES[family].suffixes],
        unet=modules["unet"].eval(),
        vae=modules["vae"].float().eval(),
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


def _convert(path: Path, configs: Path, family: Family, tokenizers: list[Any]) -> dict[str, Any]:
    """Diffusers' own conversion, from local configs alone."""
    suffixes = FAMILIES[family].suffixes
    given = {f"tokenizer{suffix}": tokenizer for suffix, tokenizer in zip(suffixes, tokenizers, strict=True)}
    label = FAMILIES[family].label
    with one_line_errors(
        f"{path}: does not fit the configs of {label}", "; give the model's own by --config-folder"
    ):
        pipeline = getattr(diffusers, FAMILIES[family].pipeline).from_single_file(
            str(path), config=str(configs), local_files_only=True, **given
        )
    names = ("unet", "vae", *(f"text_encoder{suffix}" for suffix in suffixes))
    modules = {name: getattr(pipeline, name) for name in names}
    for name, module in modules.items():
        absent = [key for key, tensor in module.named_parameters() if tensor.is_meta]
        if absent:
            raise InputError(f"{path}: its {name} lacks {len(absent)} tensors, among them {absent[0]}")
    return modules

"""What a folder or file holds, told by configs and the names of tensors: a model of which family, or what it lacks.

No weights are read, and torch is not imported.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from lab.errors import InputError
from lab.files import read_json
from lab.models.family import FAMILIES, Family, FamilyTraits, check_channels, family_of, known_families
from lab.models.file_kinds import OTHER_FAMILY, file_kind
from lab.models.part_configs import read_part_config
from lab.models.weights import (
    HOW_TO_CONVERT,
    PICKLES,
    TensorInfo,
    known_variants,
    pick_weights,
    spread,
    uses_variant,
)

UNET, VAE = "model.diffusion_model.", "first_stage_model."
"""Prefixes of a part's tensors in a single file in the layout of the original code."""

REFINER = "conditioner.embedders.0.model."
"""SDXL's refiner has OpenCLIP's encoder where the base model has CLIP's."""

LATENTS_IN, LATENTS_OUT = f"{UNET}input_blocks.0.0.weight", f"{UNET}out.2.weight"
"""The U-Net's first and last convolution there: their shapes tell how many channels it takes and gives."""

WHERE_TO_GET_A_VAE = (
    "give one by --vae, such as hub:stabilityai/sd-vae-ft-mse for SD 1.x and 2.x or "
    "hub:madebyollin/sdxl-vae-fp16-fix for SDXL"
)

NOT_DIFFUSED = (
    "the noise of EDM (2206.00364), as Playground 2.5 and CosXL were, for which the lab has no scheduler"
)

VOCABULARIES = ({"tokenizer.json"}, {"vocab.json", "merges.txt"})
"""Either set of files is enough to make a tokenizer."""


Tensors = TypeVar("Tensors")


def by_published_names(tensors: Mapping[str, Tensors]) -> dict[str, Tensors]:
    """What is known of a checkpoint's tensors, by the names of the published files.

    Some tools leave out `text_model.`, write diffusers' names in the VAE, put `model.` before everything, or keep the
    name of the text encoder in ComfyUI's memory (`clip_l.`) where there is but one.
    """
    alone = not any(name.startswith("cond_stage_model.clip_g.") for name in tensors)
    renamed = {}
    for name, tensor in tensors.items():
        name = re.sub(
            r"^model\.(?=(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner)\.)", "", name
        )
        if alone:
            name = name.replace("cond_stage_model.clip_l.transformer.", "cond_stage_model.transformer.", 1)
        name = re.sub(
            r"^(cond_stage_model|conditioner\.embedders\.0)\.transformer\.(?=(embeddings|encoder|final_layer_norm)\.)",
            r"\1.transformer.text_model.",
            name,
        )
        name = re.sub(
            r"(?<=\.attn_1\.)(to_q|to_k|to_v|to_out\.0)(?=\.)", lambda m: _VAE_ATTENTION[m[1]], name
        )
        renamed[name] = tensor
    return renamed


_VAE_ATTENTION = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def is_of_model(names: Iterable[str]) -> bool:
    """Whether tensors are a checkpoint's, by their names in the layout of the original code."""
    return any(
        name.startswith((UNET, VAE, "cond_stage_model.", "conditioner.", "model_ema.")) for name in names
    )


def folder_family(root: Path) -> Family:
    """Tells a folder's family from its configs.

    Raises:
        InputError: no U-Net or text encoder config, or a family that the lab does not load.
    """
    for part in ("unet", "text_encoder"):
        if not (root / part / "config.json").is_file():
            known = f"the lab loads diffusers folders of {known_families()}"
            raise InputError(f"{root}: has no {part}/config.json; {known}{contents_of(root)}")
    unet, text_encoder = (
        read_part_config(root / part / "config.json", part) for part in ("unet", "text_encoder")
    )
    return family_of(unet, text_encoder, root)


def check_folder(root: Path, family: Family, variant: str | None) -> dict[str, list[str]]:
    """The weight files of each part of a model in a diffusers folder, relative to the folder.

    Args:
        variant: Of the weights, such as `fp16`, or None for the plain ones.

    Raises:
        InputError: names every missing part, or says that there are only pickles.
    """
    return check_file_names(
        [path.relative_to(root).as_posix() for path in root.glob("*/*")], root, family, variant
    )


def check_file_names(
    names: Sequence[str], root: Path, family: Family, variant: str | None
) -> dict[str, list[str]]:
    """`check_folder` for files that need not be there yet, by their names in the folder.

    Args:
        names: Such as `unet/config.json`.
        root: Says in errors whose files they are.
        variant: Of the weights, such as `fp16`, or None for the plain ones.

    Raises:
        InputError: names every missing part, or says that there are only pickles.
    """
    traits = FAMILIES[family]
    files = {part: pick_weights(names, part, variant) for part in traits.parts}
    configs = [f"{part}/config.json" for part in traits.parts] + ["scheduler/scheduler_config.json"]
    missing = [name for name in configs if name not in names]
    missing += [
        f"tokenizer{s}/tokenizer.json" for s in traits.suffixes if not has_vocabulary(names, f"tokenizer{s}")
    ]
    missing += [f"{part}/*.safetensors" for part, found in files.items() if not found]
    if missing:
        wanted = f"{root}: a {traits.label} folder without {', '.join(missing)}"
        others = known_variants(names)
        if others and variant not in others:
            raise InputError(f"{wanted}; it has variants: use --variant {' or '.join(others)}")
        pickles = any(Path(name).suffix in PICKLES for name in names)
        weights_missing = any(name.endswith("*.safetensors") for name in missing)
        raise InputError(f"{wanted}; {HOW_TO_CONVERT}" if pickles and weights_missing else wanted)
    if variant and not any(uses_variant(found, variant) for found in files.values()):
        raise InputError(f"{root}: no part has a '{variant}' variant; leave out --variant")
    return files


def has_vocabulary(names: Iterable[str], part: str) -> bool:
    """Whether a folder's files, named such as `tokenizer/vocab.json`, are enough to make the tokenizer of a part."""
    found = {name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/")}
    return any(vocabulary <= found for vocabulary in VOCABULARIES)


def file_family(header: Mapping[str, TensorInfo], path: Path, without_vae: bool = False) -> Family:
    """Tells a checkpoint's family from the names of its tensors.

    Args:
        header: What is known of its tensors, by the names of the published files.
        path: Names the file in errors.
        without_vae: The file may lack its VAE: another one is given, or none is needed.

    Raises:
        InputError: which part is missing, or that the model is of another kind.
    """
    prefixes = {"U-Net": UNET, "VAE": VAE}
    missing = [part for part, prefix in prefixes.items() if not any(key.startswith(prefix) for key in header)]
    family = next((name for name, traits in FAMILIES.items() if _has_encoders(header, traits)), None)
    if family is None:
        missing.append(f"text encoder of {known_families('or')}")
    if family is None or missing not in ([], ["VAE"] if without_vae else []):
        raise InputError(f"{path}: {_not_whole(header, missing)}")
    if LATENTS_IN in header and LATENTS_OUT in header:
        check_channels(header[LATENTS_IN].shape[1], header[LATENTS_OUT].shape[0], path)
    other_noise = next((name for name in header if name.startswith(("edm_mean", "edm_vpred."))), None)
    if other_noise is not None:
        raise InputError(f"{path}: its tensor {other_noise} says that it was trained on {NOT_DIFFUSED}")
    return family


def _not_whole(header: Mapping[str, TensorInfo], missing: Sequence[str]) -> str:
    """What a file that lacks parts is, and what to do."""
    kind = file_kind(header)
    if kind is not None and ("U-Net" in missing or kind.use == OTHER_FAMILY):
        return kind.instead_of("a model")
    if any(key.startswith(REFINER) for key in header) and "U-Net" not in missing:
        return "an SDXL refiner, which only goes on from another model's image; take the base model"
    if "U-Net" in missing and any(key.startswith("model_ema.") for key in header):
        return "holds only the averaged (EMA) copy of its U-Net; take the model's pruned or full file"
    if any(key.startswith("cond_stage_model.clip_g.") for key in header):
        return (
            "its text encoders have the names of ComfyUI's memory; load it in ComfyUI and save it by the node "
            "CheckpointSave, or take the model's published file"
        )
    bare = {key.partition(".")[0] for key in header}
    if "U-Net" in missing and ((len(missing) > 1 and "VAE" not in missing) or {"encoder", "decoder"} <= bare):
        return "a VAE alone; give it by --vae file:x.safetensors beside a model"
    if bare & {"input_blocks", "down_blocks"} or ("U-Net" not in missing and len(missing) > 1):
        return "a U-Net alone, without VAE and text encoder; take the model's whole file, or its diffusers folder"
    if missing == ["VAE"]:
        return f"not a whole checkpoint, it has no VAE; {WHERE_TO_GET_A_VAE}"
    return (
        f"not a whole checkpoint, it has no {' and no '.join(missing)}; the lab loads files with U-Net, "
        f"VAE and text encoder in the layout of the original code"
    )


class Mark(NamedTuple):
    """What a file says of its noise schedule, as settings of a scheduler, and by what: a tensor or a metadata key."""

    settings: Mapping[str, Any]
    told_by: str


_SAID = {"v": "v_prediction", "v_prediction": "v_prediction", "v-prediction": "v_prediction"} | {
    "epsilon": "epsilon",
    "eps": "epsilon",
}


GUIDED_STEP, DISTILLED = f"{UNET}time_embed.cond_proj.weight", "time_embedding.cond_proj.weight"
"""Takes the guidance scale in a U-Net that was distilled with it (LCM), and what diffusers calls it."""

_TELLS_PREDICTION = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
_SPREAD_OF_V = 0.09
"""In SD 2.x's U-Nets that predict v this tensor's standard deviation is above it, as ComfyUI tells them."""


def file_marks(
    path: Path,
    header: Mapping[str, TensorInfo],
    family: Family,
    metadata: Mapping[str, str],
    guess: bool = True,
) -> list[Mark]:
    """What a file says of the noise schedule; what comes later counts more.

    A tensor's spread in SD 2.x; ModelSpec's `prediction_type` as kohya's sd-scripts write it, or `predict_key` as
    ComfyUI does; the marker tensors `v_pred` and `ztsnr`, as ComfyUI reads them in SDXL files; an LCM's own tensor.

    Args:
        header: What is known of its tensors, by the names of the published files.
        guess: Goes by a tensor's spread as well; not where configs are given.
    """
    marks = []
    width = spread(path, _TELLS_PREDICTION) if guess and family == "sd2" else None
    if width is not None:
        predicted = "v_prediction" if width > _SPREAD_OF_V else "epsilon"
        marks.append(Mark({"prediction_type": predicted}, f"the spread of {_TELLS_PREDICTION}"))
    for key in ("modelspec.predict_key", "modelspec.prediction_type"):
        said = metadata.get(key, "").lower()
        if said in _SAID:
            marks.append(Mark({"prediction_type": _SAID[said]}, f"metadata {key}"))
    if "v_pred" in header:
        marks.append(Mark({"prediction_type": "v_prediction"}, "tensor v_pred"))
    if "ztsnr" in header:
        zero_snr = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        marks.append(Mark(zero_snr, "tensor ztsnr"))
    if GUIDED_STEP in header:
        marks.append(Mark({"_class_name": "LCMScheduler"}, f"tensor {GUIDED_STEP}"))
    return marks


def _has_encoders(header: Mapping[str, TensorInfo], traits: FamilyTraits) -> bool:
    return all(any(key.startswith(prefix) for key in header) for prefix in traits.checkpoint_prefixes)


def contents_of(root: Path) -> str:
    """What a folder without the configs that were looked for is, as far as one can tell: the end of a message."""
    if (root / "model_index.json").is_file():
        return (
            f"; this is a {read_json(root / 'model_index.json').get('_class_name', 'model of another kind')}"
        )
    files = sorted(path.name for path in root.glob("*.safetensors"))
    return f"; for a single-file model write file:{root / files[0]}" if files else ""

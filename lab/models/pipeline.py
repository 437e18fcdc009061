"""From a `Bundle` to the diffusers pipeline with the same modules, through which LoRA files are fused into them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
from safetensors.torch import load_file

from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.models.config import split_lora
from lab.models.file_kinds import BUNDLED_EMBEDDING
from lab.models.folder import quiet_libraries


def build_pipeline(bundle: Bundle) -> diffusers.DiffusionPipeline:
    """The family's text-to-image pipeline around the bundle's modules, without safety checker and watermark.

    Raises:
        InputError: the model's scheduler is of a class that diffusers does not have.
    """
    traits = bundle.traits
    parts: dict[str, Any] = {"unet": bundle.unet, "vae": bundle.vae, "scheduler": model_scheduler(bundle)}
    for suffix, tower in zip(traits.suffixes, bundle.towers, strict=True):
        parts |= {f"tokenizer{suffix}": tower.tokenizer, f"text_encoder{suffix}": tower.encoder}
    if traits.zeros_without_negative:
        parts["force_zeros_for_empty_prompt"] = bundle.force_zeros_for_empty_prompt
    with quiet_libraries():
        pipeline = getattr(diffusers, traits.pipeline)(**parts, **traits.pipeline_options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def model_scheduler(bundle: Bundle) -> diffusers.SchedulerMixin:
    """A fresh scheduler of the class and settings that the model was saved with.

    Raises:
        InputError: diffusers has no such class.
    """
    name = str(bundle.scheduler_config.get("_class_name", "DDIMScheduler"))
    kind: Any = getattr(diffusers, name, None)
    known = isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)
    if not known:
        raise InputError(
            f"{bundle.source}: its scheduler '{name}' is none that diffusers has; fix its scheduler_config.json"
        )
    return kind.from_config(dict(bundle.scheduler_config))


def fuse_all(bundle: Bundle) -> Bundle:
    """Adds every LoRA of the bundle's options to the weights, which then cost no more time than before.

    Returns:
        The bundle with the files among its weights, so that its hash tells.

    Raises:
        InputError: an unreadable file, or one that fits no part of the model.
    """
    files = [split_lora(text) for text in bundle.options.lora]
    for path, scale in files:
        _fuse(bundle, path, scale)
    return replace(bundle, weights=(*bundle.weights, *(path for path, _ in files)))


def _fuse(bundle: Bundle, path: Path, scale: float) -> None:
    tensors = load_file(path)
    broken = next((name for name, tensor in tensors.items() if not tensor.float().isfinite().all()), None)
    if broken is not None:
        raise InputError(f"{path}: its {broken} holds NaN or infinity: the LoRA is damaged")
    misfit = (
        f"{path}: no LoRA for this {bundle.traits.label} model: its tensors do not fit the model's layers by name and "
        "shape"
    )
    pipeline, parts = build_pipeline(bundle), []
    try:
        with quiet_libraries():
            if any(name.startswith(BUNDLED_EMBEDDING) for name in tensors):
                tensors = {
                    name: tensor for name, tensor in tensors.items() if not name.startswith(BUNDLED_EMBEDDING)
                }
                pipeline.load_lora_weights(tensors, adapter_name="lora")
            else:  # which also reads what the file says of itself
                pipeline.load_lora_weights(
                    path.parent, weight_name=path.name, adapter_name="lora", local_files_only=True
                )
            parts = [part for part, adapters in pipeline.get_list_adapters().items() if adapters]
            if parts:
                pipeline.fuse_lora(components=parts, lora_scale=scale)
                pipeline.unload_lora_weights()
    except Exception as error:  # of every kind, in words on the libraries' own names
        raise InputError(misfit) from error
    if not parts:
        raise InputError(misfit)

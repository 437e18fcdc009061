"""LoRA files, read by diffusers and fused into the weights."""

from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file

from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.models.config import split_lora
from lab.models.detection import BUNDLED
from lab.models.libraries import one_line_errors
from lab.models.pipeline import build_pipeline
from lab.models.weights import read_header


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
    bundled = any(name.startswith(BUNDLED) for name in read_header(path))
    pipeline = build_pipeline(bundle)
    with one_line_errors(f"{path}: no LoRA for this {bundle.traits.label} model"):
        if bundled:
            tensors = {n: tensor for n, tensor in load_file(path).items() if not n.startswith(BUNDLED)}
            pipeline.load_lora_weights(tensors, adapter_name="lora")
        else:
            pipeline.load_lora_weights(
                path.parent, weight_name=path.name, adapter_name="lora", local_files_only=True
            )
        parts = [part for part, adapters in pipeline.get_list_adapters().items() if adapters]
        pipeline.fuse_lora(components=parts, lora_scale=scale)
        pipeline.unload_lora_weights()
    if not parts:
        raise InputError(f"{path}: this LoRA fits no part of the model")

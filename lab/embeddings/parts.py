"""What layouts have in common: vectors parted from what stands beside them, and encoders told by name and width."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lab.embeddings.embedding import XTI_LAYERS, key_by_width
from lab.models.family import FAMILIES

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Draft:
    """What a file says, before its vectors are checked."""

    vectors: "dict[str, Tensor]"
    internal_name: str | None = None
    step: int | None = None
    base_model: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    outputs: "dict[str, Tensor]" = field(default_factory=dict)
    foreign: "dict[str, Tensor]" = field(default_factory=dict)
    layers: "dict[str, Tensor]" = field(default_factory=dict)


_KNOWN_KEYS = {key for traits in FAMILIES.values() for key in traits.encoder_keys}

_OPTIMIZER = re.compile(r"(.*[._])?(exp_avg|exp_avg_sq|max_exp_avg_sq|momentum_buffer|optimizer.*)$")

_FOREIGN = {
    "t5": "T5 (SD3, Flux, PixArt, Chroma)",
    "umt5": "UMT5 (Wan)",
    "byt5": "ByT5 (glyphs)",
    "llama": "Llama (HunyuanVideo, HiDream)",
    "qwen": "Qwen (Qwen-Image, Z-Image, Anima)",
    "gemma": "Gemma (Sana, Lumina 2)",
    "mistral": "Mistral (Flux 2)",
}
"""Text encoders of other families, by how their names in files begin; ComfyUI's and OneTrainer's."""

_FOREIGN_NAME = re.compile(rf"({'|'.join(_FOREIGN)})(xxl)?\d*(_\d+b|_small)?(_out)?")

SHOWN = 4
"""Names in a message; of the others it says how many there are."""


def tensors_of(data: Any) -> "dict[str, Tensor] | None":
    """The vectors of a dictionary by name, or None if it has none.

    Plain values, counters (tensors of one number) and an optimizer's tensors may stand beside them.
    """
    from torch import Tensor

    if not isinstance(data, Mapping):
        return None
    tensors = {
        key: value for key, value in data.items() if isinstance(key, str) and isinstance(value, Tensor)
    }
    vectors = {
        key: value
        for key, value in tensors.items()
        if not (value.ndim <= 1 and value.numel() == 1) and not _OPTIMIZER.match(key)
    }
    return vectors or tensors or None


def by_encoder(named: "Mapping[str, Tensor]") -> "tuple[dict[str, Tensor], tuple[str, ...]]":
    """Vectors by encoder, where their names and their widths may say different things.

    A width that belongs to one of the published encoders counts more than the name beside it.

    Args:
        named: (n, width) by what the file calls the encoder.

    Returns:
        The vectors, and a note if names were overruled.
    """
    keys = {}
    for name, tensor in named.items():
        (key,) = key_by_width(tensor)
        keys[name] = key if key in _KNOWN_KEYS else name
    wrong = [name for name, key in keys.items() if name != key]
    if not wrong or len(set(keys.values())) < len(keys):
        return dict(named), ()
    moved = {key: named[name] for name, key in keys.items()}
    return moved, (f"{' and '.join(wrong)}: as wide as another encoder's, and matched by width",)


def with_outputs(
    tensors: "Mapping[str, Tensor]", *names: str
) -> "tuple[dict[str, Tensor], dict[str, Tensor], tuple[str, ...]]":
    """The vectors in front of a text encoder, and OneTrainer's output embeddings, which go behind it.

    Where it trained an output embedding, OneTrainer stores zeros or nothing in the place of vectors, and the text
    encoder sees zeros there.

    Args:
        names: Of the vectors (n, width) that may be there; the output embeddings have `_out` behind them.

    Returns:
        Both by these names, and a note if there are output embeddings.
    """
    outputs = {name: tensors[f"{name}_out"] for name in names if f"{name}_out" in tensors}
    inputs = {name: tensors[name] for name in names if name in tensors}
    for name, output in outputs.items():
        inputs.setdefault(name, output.new_zeros(output.shape))
    said = ", ".join(f"{name}_out" for name in outputs)
    return inputs, outputs, (f"{said}: put in behind the text encoder",) if outputs else ()


def mean_of_layers(layers: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """What stands in front of the text encoder for vectors (n, width) of each of `XTI_LAYERS`, by encoder."""
    import torch

    return key_by_width(torch.stack([layers[layer] for layer in XTI_LAYERS]).mean(dim=0))


def foreign_in(tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """The vectors for text encoders of other families, by their names."""
    return {name: tensor for name, tensor in tensors.items() if _FOREIGN_NAME.fullmatch(name)}


def foreign_note(names: Iterable[str]) -> str:
    """Whom vectors for other families are for, by their names."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        found = _FOREIGN_NAME.fullmatch(name)
        kinds.setdefault(_FOREIGN[found[1]] if found else "another encoder", []).append(name)
    return "; ".join(f"{', '.join(own)} for {kind}" for kind, own in kinds.items())


def unused(names: Iterable[Any]) -> tuple[str, ...]:
    """The note that names what stands beside the vectors; nothing if there is nothing."""
    known = [str(name) for name in names]
    return (f"{shown(known)}: beside the vectors, not used",) if known else ()


def shown(names: Iterable[str]) -> str:
    """The first of the names, each cut to 40 characters, and how many more there are."""
    known = [name[:40] for name in names]
    more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    return ", ".join(known[:SHOWN]) + more


def text(value: Any) -> str | None:
    """A text that is not empty, or None."""
    return value if isinstance(value, str) and value else None


def whole(value: Any) -> int | None:
    """A whole number, also as a tensor of one number; or None."""
    if hasattr(value, "numel") and value.numel() == 1:
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None

"""What layouts have in common: vectors parted from what stands beside them, and encoders told by name and width."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lab.embeddings.embedding import key_by_width
from lab.errors import InputError
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


_KNOWN_KEYS = {key for traits in FAMILIES.values() for key in traits.encoder_keys}

_OPTIMIZER = re.compile(r"(.*[._])?(exp_avg|exp_avg_sq|max_exp_avg_sq|momentum_buffer|optimizer.*)$")

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


def without_outputs(
    tensors: "Mapping[str, Tensor]", *names: str
) -> "tuple[dict[str, Tensor], tuple[str, ...]]":
    """Parts the vectors from OneTrainer's output embeddings, which go behind the text encoder instead.

    OneTrainer stores zeros, or nothing, in the place of vectors where it trained an output embedding.

    Args:
        names: Of the vectors (n, width) that may be there; the output embeddings have `_out` behind them.

    Returns:
        The vectors by these names, and a note if output embeddings are left out.

    Raises:
        InputError: there are output embeddings alone.
    """
    inputs = {name: tensors[name] for name in names if name in tensors}
    outputs = [f"{name}_out" for name in names if f"{name}_out" in tensors]
    if not outputs:
        return inputs, ()
    if not any(tensor.any() for tensor in inputs.values()):
        raise InputError(
            f"a OneTrainer output embedding ({', '.join(outputs)}), which belongs behind the text encoder; "
            "train it again without 'output embedding'"
        )
    return inputs, (f"{', '.join(outputs)}: output embeddings, not used",)


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

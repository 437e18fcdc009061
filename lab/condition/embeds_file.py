"""Prompt embeddings in a file: `lab encode --out` writes them, `lab generate --embeds` takes them for a prompt.

A .safetensors file with `embeds` and, for SDXL, `pooled`; a scheduled or composed prompt has further ones, numbered
`embeds.1` and on. The metadata says what was encoded and how, under the key `lab` as JSON. Read are also the bare
tensors that others publish, such as ReNeg (2412.19637): one of shape (n, d) or (1, n, d), and for SDXL a pooled one
beside it, in .safetensors, .pt or .bin.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.condition.conditioning import AppliedEmbedding, Conditioning, Encoding, Part, TokenSpan
from lab.embeddings.containers import decode, read_bytes
from lab.errors import InputError
from lab.files import atomic, parse_json

if TYPE_CHECKING:
    from torch import Tensor

    from lab.models.bundle import Bundle

_KEY = "lab"


def write_embeds(
    path: Path,
    conditioning: Conditioning,
    about: Mapping[str, Any],
    extra: "Mapping[str, Tensor] | None" = None,
) -> None:
    """Writes a conditioning, whole or not at all.

    Args:
        about: What else to keep: the model, the options, as JSON can hold them.
        extra: Further tensors, which `read_embeds` leaves alone.

    Raises:
        InputError: the file cannot be written, is no .safetensors file by its name, or has no place for `layers`.
    """
    from safetensors.torch import save_file

    check_embeds_file(path)
    if any(entry.layers for entry in conditioning.entries):
        raise InputError(f"{path}: has no place for a text that each layer of the U-Net reads differently")
    numbers = {entry: number for number, entry in enumerate(dict.fromkeys(conditioning.entries))}
    tensors = dict(extra or {})
    for entry, number in numbers.items():
        tensors[_name("embeds", number)] = entry.embeds.contiguous().clone()
        if entry.pooled is not None:
            tensors[_name("pooled", number)] = entry.pooled.contiguous().clone()
    content = {
        "prompt": conditioning.prompt,
        "parts": [
            {"weight": part.weight, "entries": [(until, numbers[entry]) for until, entry in part.entries]}
            for part in conditioning.parts
        ],
        "texts": [_account(entry) for entry in numbers],
        "about": dict(about),
    }
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata={_KEY: json.dumps(content)})


def check_embeds_file(path: Path) -> None:
    """Refuses a file that prompt embeddings cannot be written to, by its name.

    Raises:
        InputError: it is no .safetensors file.
    """
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: prompt embeddings go into a .safetensors file")


def read_embeds(path: Path, bundle: "Bundle", steps: int) -> Conditioning:
    """Reads a conditioning for a model and a number of denoising steps.

    Raises:
        InputError: no prompt embeddings, embeddings of another width than the model's, or a schedule over another
            number of steps.
    """
    try:
        found = decode(read_bytes(path))
    except InputError as error:
        raise InputError(f"{path}: no prompt embeddings: {str(error).removeprefix(f'{path}: ')}") from None
    try:
        if _KEY in found.metadata:
            conditioning = _conditioning(parse_json(found.metadata[_KEY], path), found.data)
        else:
            conditioning = _bare(path.stem, found.data)
    except (KeyError, IndexError, TypeError, ValueError):
        raise InputError(f"{path}: no prompt embeddings; write them with lab encode --out") from None
    _check(path, conditioning, bundle, steps)
    return conditioning


def _bare(name: str, data: Any) -> Conditioning:
    """The conditioning of a lone tensor, and a pooled one if there is one.

    Raises:
        ValueError: none, or several.
    """
    import torch

    values = list(data.values()) if isinstance(data, Mapping) else data if isinstance(data, list) else [data]
    tensors = [value.detach().squeeze() for value in values if isinstance(value, torch.Tensor)]
    (embeds,) = (_matrix(tensor) for tensor in tensors if tensor.ndim > 1)
    flat = [tensor.float() for tensor in tensors if tensor.ndim == 1]
    if len(flat) > 1:
        raise ValueError("several pooled tensors")
    all_but_start = (TokenSpan(name, 1, len(embeds), (0, len(name))),)
    encoding = Encoding(name, embeds, flat[0] if flat else None, all_but_start)
    return Conditioning(name, (Part(1.0, ((1, encoding),)),))


def _check(path: Path, conditioning: Conditioning, bundle: "Bundle", steps: int) -> None:
    width = sum(tower.width for tower in bundle.towers)
    context = bundle.context_length
    for entry in conditioning.entries:
        if entry.embeds.shape[-1] != width or entry.embeds.shape[0] % context:
            shape = " x ".join(map(str, entry.embeds.shape))
            raise InputError(
                f"{path}: embeddings of {shape}; the model {bundle.source} takes {context} x {width}"
            )
        if (entry.pooled is None) == bundle.traits.size_conditioning:
            raise InputError(
                f"{path}: pooled embeddings are for SDXL, and only for it; use the model they are for"
            )
    for part in conditioning.parts:
        last = part.entries[-1][0]
        if len(part.entries) > 1 and last != steps:
            raise InputError(
                f"{path}: its schedule is over {last} calls of the U-Net, and this run counts {steps}; "
                f"write it anew by lab encode --steps {steps}"
            )


def _name(kind: str, number: int) -> str:
    return f"{kind}.{number}" if number else kind


def _account(entry: Encoding) -> dict[str, Any]:
    return {
        "text": entry.text,
        "spans": [asdict(span) for span in entry.spans],
        "applied": [asdict(use) for use in entry.applied],
    }


def _conditioning(content: Mapping[str, Any], tensors: "Mapping[str, Tensor]") -> Conditioning:
    entries = [
        Encoding(
            text["text"],
            _matrix(tensors[_name("embeds", number)]),
            tensors.get(_name("pooled", number)),
            tuple(TokenSpan(**span | {"source": tuple(span["source"])}) for span in text["spans"]),
            tuple(
                AppliedEmbedding(**use | {"positions": tuple(use["positions"])}) for use in text["applied"]
            ),
        )
        for number, text in enumerate(content["texts"])
    ]
    parts = [
        Part(float(part["weight"]), tuple((int(until), entries[number]) for until, number in part["entries"]))
        for part in content["parts"]
    ]
    if not parts or not all(part.entries for part in parts):
        raise ValueError("no part")
    return Conditioning(content["prompt"], tuple(parts))


def _matrix(tensor: "Tensor") -> "Tensor":
    if tensor.ndim != 2 or not tensor.isfinite().all():
        raise ValueError("no matrix of finite numbers")
    return tensor.float()

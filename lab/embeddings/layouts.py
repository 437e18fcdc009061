"""What the tensors in an embedding file mean: one reader a layout, and the table of them.

A reader takes a file's contents and returns None if they are not in its layout.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lab.embeddings.contents import Contents
from lab.embeddings.vectors import by_width
from lab.errors import InputError


@dataclass(frozen=True)
class Draft:
    """What a file says, before its vectors are checked."""

    vectors: dict[str, Tensor]
    internal_name: str | None = None
    step: int | None = None
    base_model: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


SD_CHECKPOINT = "sd_checkpoint"
"""A1111's key for the base model's hash."""

Reader = Callable[[Contents], Draft | None]


def read_a1111(contents: Contents) -> Draft | None:
    """A1111 and DreamArtist, new (a dictionary) and old (a `ParameterDict`); also in images."""
    data = contents.data
    if not isinstance(data, Mapping) or "string_to_param" not in data:
        return None
    terms = data["string_to_param"]
    if isinstance(terms, nn.ParameterDict):
        terms = vars(terms).get("_parameters")
    tensors = _tensors(terms)
    if tensors is None or len(tensors) != 1:
        raise InputError("its string_to_param does not hold the vectors of one embedding")
    ((token, tensor),) = tensors.items()
    checkpoint = _text(data.get(SD_CHECKPOINT))
    return Draft(
        by_width(tensor),
        internal_name=_text(data.get("name")) or (None if token == "*" else token),
        step=_whole(data.get("step")),
        base_model=_text(data.get("sd_checkpoint_name")),
        metadata={SD_CHECKPOINT: checkpoint} if checkpoint else {},
    )


def read_sdxl(contents: Contents) -> Draft | None:
    """Files that name their encoders: SDXL's two by kohya, OneTrainer and this project."""
    tensors = _tensors(contents.data)
    if tensors is None or not tensors.keys() <= {"clip_l", "clip_g", "clip_l_out", "clip_g_out"}:
        return None
    inputs, notes = _without_outputs(tensors, "clip_l", "clip_g")
    return Draft(inputs, notes=notes)


def read_kohya(contents: Contents) -> Draft | None:
    """kohya sd-scripts, and EasyNegative: `emb_params`."""
    tensors = _tensors(contents.data)
    if tensors is None or tensors.keys() != {"emb_params"}:
        return None
    return Draft(by_width(tensors["emb_params"]))


def read_onetrainer(contents: Contents) -> Draft | None:
    """OneTrainer for SD 1.x and 2.x: `emp_params`, its own spelling."""
    tensors = _tensors(contents.data)
    if tensors is None or not tensors.keys() <= {"emp_params", "emp_params_out"}:
        return None
    inputs, notes = _without_outputs(tensors, "emp_params")
    return Draft(by_width(inputs["emp_params"]), notes=notes)


def refuse_xti(contents: Contents) -> Draft | None:
    """kohya's extended textual inversion: vectors for every layer of the U-Net."""
    tensors = _tensors(contents.data)
    if tensors is None or not all(re.fullmatch(r"(IN|OUT)\d\d|MID", key) for key in tensors):
        return None
    raise InputError(
        "a kohya XTI embedding, with other vectors for each U-Net layer, which are not supported; "
        "train it with train_textual_inversion.py for one set of vectors"
    )


def read_list(contents: Contents) -> Draft | None:
    """Old diffusers and ComfyUI exports: a list of dictionaries whose vectors follow one another."""
    if not isinstance(contents.data, (list, tuple)):
        return None
    rows: dict[str, list[Tensor]] = {}
    names = []
    for item in contents.data:
        tensors = _tensors(item)
        if tensors is None:
            raise InputError("a list with something else than dictionaries of tensors in it")
        for token, tensor in tensors.items():
            ((key, vectors),) = by_width(tensor).items()
            rows.setdefault(key, []).append(vectors.reshape(-1, vectors.shape[-1]))
            names.append(token)
    if not rows:
        raise InputError("an empty list: there are no vectors in it")
    return Draft({key: torch.cat(parts) for key, parts in rows.items()}, internal_name=names[0])


def read_diffusers(contents: Contents) -> Draft | None:
    """diffusers' script: the placeholder token and its vectors."""
    tensors = _tensors(contents.data)
    if tensors is None or len(tensors) != 1:
        return None
    ((token, tensor),) = tensors.items()
    return Draft(by_width(tensor), internal_name=token)


LAYOUTS: dict[str, Reader] = {
    "a1111": read_a1111,
    "sdxl": read_sdxl,
    "kohya": read_kohya,
    "onetrainer": read_onetrainer,
    "xti": refuse_xti,
    "list": read_list,
    "diffusers": read_diffusers,  # the last, since any name may be a token
}


def recognise(contents: Contents) -> tuple[str, Draft]:
    """Returns the name of the layout and what its reader found.

    Raises:
        InputError: no layout fits; the message says what the file looks like instead.
    """
    for layout, reader in LAYOUTS.items():
        draft = reader(contents)
        if draft is not None:
            return layout, draft
    tensors = _tensors(contents.data)
    if tensors is None:
        raise InputError("there are no vectors in it")
    first = next(iter(tensors))
    if any("lora" in key for key in tensors):
        raise InputError("a LoRA, not an embedding; give it as --lora")
    raise InputError(f"{len(tensors)} tensors ('{first}', ...) in no layout of an embedding; is it a model?")


def _tensors(data: Any) -> dict[str, Tensor] | None:
    """The data as a dictionary of at least one tensor by name, or None if it is anything else."""
    if not isinstance(data, Mapping) or not data:
        return None
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in data.items()):
        return None
    return dict(data)


def _without_outputs(tensors: dict[str, Tensor], *names: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Parts the vectors from OneTrainer's output embeddings, which go behind the text encoder instead.

    OneTrainer stores zeros, or nothing, in the place of vectors where it trained an output embedding.
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


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None

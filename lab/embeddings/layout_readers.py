"""Readers of the layouts: from what a file holds to a draft of its embedding. Imports no torch.

Each returns None for a file in another layout, and raises `InputError` for one that is in its layout and
cannot be used.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lab.embeddings.containers import FileContents
from lab.embeddings.embedding import XTI_LAYERS, ForeignEmbeddingError, key_by_width
from lab.embeddings.parts import (
    Draft,
    by_encoder,
    foreign_in,
    foreign_note,
    mean_of_layers,
    shown,
    tensors_of,
    text,
    unused,
    whole,
    with_outputs,
)
from lab.errors import InputError
from lab.models.file_kinds import BUNDLED_EMBEDDING

if TYPE_CHECKING:
    from torch import Tensor

SD_CHECKPOINT = "sd_checkpoint"
"""A1111's key for the base model's hash."""

_A1111_KEYS = {"string_to_token", "string_to_param", "name", "step", SD_CHECKPOINT, "sd_checkpoint_name"}

_ENCODERS = {
    "clip_l": ("clip_l", "text_encoders_0", "text_encoder"),
    "clip_g": ("clip_g", "text_encoders_1", "text_encoder_2"),
}
"""How files name SDXL's encoders: kohya, OneTrainer, diffusers' advanced scripts and this project; cog-sdxl and those
scripts at first; and as diffusers' pipelines call them."""

_BUNDLED = re.compile(
    re.escape(BUNDLED_EMBEDDING)
    + r"(.+)\.(clip_[lg](?:_out)?|em[bp]_params(?:_out)?|string_to_param\.\*|[a-z]+\d*\w*)"
)


def read_a1111(contents: FileContents) -> Draft | None:
    """A1111 and DreamArtist (a dictionary), the first textual inversion code (a `ParameterDict`); also in images."""
    data = contents.data
    if not isinstance(data, Mapping) or "string_to_param" not in data:
        return None
    from torch import nn

    terms = data["string_to_param"]
    if isinstance(terms, nn.ParameterDict):
        terms = vars(terms).get("_parameters")
    tensors = tensors_of(terms)
    if tensors is None:
        raise InputError("its string_to_param does not hold the vectors of one embedding")
    token = _choose(tensors, contents.wanted, "its string_to_param")
    checkpoint = text(data.get(SD_CHECKPOINT))
    return Draft(
        key_by_width(tensors[token]),
        internal_name=text(data.get("name")) or (None if token == "*" else token),
        step=whole(data.get("step")),
        base_model=text(data.get("sd_checkpoint_name")),
        metadata={SD_CHECKPOINT: checkpoint} if checkpoint else {},
        notes=unused(key for key in data if key not in _A1111_KEYS),
    )


def read_bundle(contents: FileContents) -> Draft | None:
    """OneTrainer's bundles, as ComfyUI reads them: `bundle_emb.NAME.` before each name; often inside a LoRA."""
    tensors = tensors_of(contents.data) or {}
    bundles: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _BUNDLED.fullmatch(key)
        if match:
            bundles.setdefault(match[1], {})[match[2].removesuffix(".*")] = tensor
    if not bundles:
        return None
    name = _choose(bundles, contents.wanted, "the file")
    vectors = bundles[name]
    if "string_to_param" in vectors:
        draft: Draft | None = Draft(key_by_width(vectors["string_to_param"]))
    else:
        inner = FileContents(vectors)
        draft = read_named(inner) or read_kohya(inner) or read_onetrainer(inner)
    if draft is None:
        raise InputError(f"bundled in it are the vectors of {name}, in no layout of an embedding")
    others = len(tensors) - sum(map(len, bundles.values()))
    notes = (f"bundled with {others} other tensors: a LoRA, to be given by --lora too",) if others else ()
    return replace(draft, internal_name=name, notes=(*draft.notes, *notes))


def read_named(contents: FileContents) -> Draft | None:
    """Files that name their encoders, whatever stands beside them: those of SD3 and Flux have T5's vectors as well."""
    tensors = tensors_of(contents.data) or {}
    named = {key: tensors[one] for key, names in _ENCODERS.items() for one in names if one in tensors}
    behind = {name: tensor for name, tensor in tensors.items() if name in ("clip_l_out", "clip_g_out")}
    foreign = foreign_in(tensors)
    if not named and not behind and foreign:
        raise ForeignEmbeddingError(
            f"{foreign_note(foreign)}: nothing in it is for CLIP, which alone the lab's models read", foreign
        )
    if not named and not behind:
        return None
    inputs, outputs, notes = with_outputs({**named, **behind}, "clip_l", "clip_g")
    if len(inputs) == 1 and not tensors.keys() & set(_ENCODERS):
        vectors, moved = key_by_width(*inputs.values()), notes[:0]
        outputs = {key: rows for one in outputs.values() for key, rows in key_by_width(one).items()}
    else:
        (vectors, moved), (outputs, _) = by_encoder(inputs), by_encoder(outputs)
    known = {one for names in _ENCODERS.values() for one in names} | behind.keys() | foreign.keys()
    made = (f"{foreign_note(foreign)}: the CLIP half alone is used",) if foreign else ()
    said = (*notes, *moved, *made, *unused(tensors.keys() - known))
    return Draft(vectors, notes=said, outputs=outputs, foreign=foreign)


def read_kohya(contents: FileContents) -> Draft | None:
    """kohya sd-scripts, and EasyNegative: `emb_params`."""
    tensors = tensors_of(contents.data)
    if tensors is None or "emb_params" not in tensors:
        return None
    return Draft(key_by_width(tensors.pop("emb_params")), notes=unused(tensors))


def read_onetrainer(contents: FileContents) -> Draft | None:
    """OneTrainer for SD 1.x and 2.x: `emp_params`, its own spelling."""
    tensors = tensors_of(contents.data)
    if tensors is None or not tensors.keys() & {"emp_params", "emp_params_out"}:
        return None
    inputs, outputs, notes = with_outputs(tensors, "emp_params")
    others = unused(tensors.keys() - {"emp_params", "emp_params_out"})
    behind = key_by_width(outputs["emp_params"]) if outputs else {}
    return Draft(key_by_width(inputs["emp_params"]), notes=(*notes, *others), outputs=behind)


def read_xti(contents: FileContents) -> Draft | None:
    """kohya's extended textual inversion: vectors for every layer of the U-Net."""
    tensors = tensors_of(contents.data)
    if tensors is None or not all(re.fullmatch(r"(IN|OUT)\d\d|MID", key) for key in tensors):
        return None
    if tensors.keys() != set(XTI_LAYERS):
        missing = ", ".join(sorted(set(XTI_LAYERS) ^ tensors.keys()))
        raise InputError(f"a kohya XTI embedding for other layers than those of SD 1.x's U-Net ({missing})")
    layers = {layer: next(iter(key_by_width(tensors[layer]).values())) for layer in XTI_LAYERS}
    layers = {layer: rows.reshape(-1, rows.shape[-1]).float() for layer, rows in layers.items()}
    if len({rows.shape for rows in layers.values()}) > 1:
        raise InputError("a kohya XTI embedding with different numbers of vectors for its layers")
    notes = ("other vectors for each layer of the U-Net",)
    return Draft(mean_of_layers(layers), layers=layers, notes=notes)


def read_list(contents: FileContents) -> Draft | None:
    """A list of dictionaries whose vectors follow one another, as ComfyUI reads them; it parts encoders by width."""
    if not isinstance(contents.data, (list, tuple)):
        return None
    import torch

    rows: dict[str, list[Tensor]] = {}
    names = []
    for item in contents.data:
        tensors = tensors_of(item)
        if tensors is None:
            raise InputError("a list with something else than dictionaries of tensors in it")
        for token, tensor in tensors.items():
            ((key, vectors),) = key_by_width(tensor).items()
            rows.setdefault(key, []).append(vectors.reshape(-1, vectors.shape[-1]))
            names.append(token)
    if not rows:
        raise InputError("an empty list: there are no vectors in it")
    for key, parts in rows.items():
        widths = sorted({part.shape[1] for part in parts})
        if len(widths) > 1:
            raise InputError(
                f"a list with vectors of several widths for {key}: {', '.join(map(str, widths))}; split it"
            )
    notes: tuple[str, ...] = ()
    if len(names) > 1 and len(contents.data) == len(names) and len(set(names)) == 1:
        notes = (
            f"a list of {len(names)} sets of vectors that are all called {names[0][:40]}: taken one after the "
            "other, as in ComfyUI; they may be snapshots of one training",
        )
    return Draft({key: torch.cat(parts) for key, parts in rows.items()}, internal_name=names[0], notes=notes)


def read_bare(contents: FileContents) -> Draft | None:
    """A file that is one tensor or parameter, as diffusers' `load_textual_inversion` takes it with a token."""
    from torch import Tensor

    return Draft(key_by_width(contents.data)) if isinstance(contents.data, Tensor) else None


def read_diffusers(contents: FileContents) -> Draft | None:
    """diffusers' script: the placeholder token and its vectors.

    `<x>`, `<x>_1`, ... are the vectors of one token, as diffusers' pipelines name them, in whatever order.
    """
    tensors = tensors_of(contents.data)
    if tensors is None:
        return None
    if len(tensors) == 1:
        ((token, tensor),) = tensors.items()
        return Draft(key_by_width(tensor), internal_name=token)
    tokens = {name: tensor for name, tensor in tensors.items() if re.match(r"<[^<>\s]+>(_\d+)?$", name)}
    if not tokens:
        return None
    notes = unused(tensors.keys() - tokens.keys())
    first = min(tokens, key=len)
    in_order = [first, *(f"{first}_{i}" for i in range(1, len(tokens)))]
    if tokens.keys() == set(in_order):
        import torch

        keyed = [key_by_width(tensor) for tensor in tokens.values()]
        if len({key for one in keyed for key in one}) == 1:
            rows = torch.cat([tokens[name].reshape(-1, tokens[name].shape[-1]) for name in in_order])
            return Draft(key_by_width(rows), internal_name=first, notes=notes)
    token = _choose(tokens, contents.wanted, "the file")
    return Draft(key_by_width(tokens[token]), internal_name=token, notes=notes)


def _choose(groups: Mapping[str, Any], wanted: str | None, where: str) -> str:
    """The one embedding of a file, or of several the one that is asked for by its name.

    Raises:
        InputError: several, and none of them is asked for.
    """
    if len(groups) == 1:
        return next(iter(groups))
    for name in groups:
        if wanted is not None and wanted in (name, name.removeprefix("<").removesuffix(">")):
            return name
    raise InputError(
        f"{where} holds {len(groups)} embeddings: {shown(groups)}; give FILE=name for one of them, or split it"
    )

"""File layouts of embeddings: what the tensors in a file mean. One table of readers and writers. Imports no torch.

To add a layout, add an entry to `LAYOUTS`; one with a writer is offered by `--layout` at once.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lab.embeddings.containers import FileContents
from lab.embeddings.embedding import Embedding, key_by_width
from lab.errors import InputError

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


@dataclass(frozen=True)
class Layout:
    """One way to lay an embedding out in a file.

    Attributes:
        label: Whose it is, for help texts and pages.
        read: From a file's contents to what they say, or None if they are not in this layout. Raises `InputError`
            for one that is and cannot be used.
        write: From an embedding with checked vectors to the dictionary that its file holds; None for a layout that
            is read only. Raises `InputError` for an embedding that has no place in it.
        suffixes: Of the files that it can be written to. Only safetensors files have room for metadata.
    """

    label: str
    read: Callable[[FileContents], Draft | None]
    write: "Callable[[Embedding, dict[str, Tensor]], dict[str, Any]] | None" = None
    suffixes: tuple[str, ...] = (".safetensors", ".pt", ".bin")


SD_CHECKPOINT = "sd_checkpoint"
"""A1111's key for the base model's hash."""


def _read_a1111(contents: FileContents) -> Draft | None:
    """A1111 and DreamArtist, new (a dictionary) and old (a `ParameterDict`); also in images."""
    data = contents.data
    if not isinstance(data, Mapping) or "string_to_param" not in data:
        return None
    from torch import nn

    terms = data["string_to_param"]
    if isinstance(terms, nn.ParameterDict):
        terms = vars(terms).get("_parameters")
    tensors = _tensors(terms)
    if tensors is None or len(tensors) != 1:
        raise InputError("its string_to_param does not hold the vectors of one embedding")
    ((token, tensor),) = tensors.items()
    checkpoint = _text(data.get(SD_CHECKPOINT))
    return Draft(
        key_by_width(tensor),
        internal_name=_text(data.get("name")) or (None if token == "*" else token),
        step=_whole(data.get("step")),
        base_model=_text(data.get("sd_checkpoint_name")),
        metadata={SD_CHECKPOINT: checkpoint} if checkpoint else {},
    )


def _read_sdxl(contents: FileContents) -> Draft | None:
    """Files that name their encoders: SDXL's two by kohya, OneTrainer and this project."""
    tensors = _tensors(contents.data)
    if tensors is None or not tensors.keys() <= {"clip_l", "clip_g", "clip_l_out", "clip_g_out"}:
        return None
    inputs, notes = _without_outputs(tensors, "clip_l", "clip_g")
    return Draft(inputs, notes=notes)


def _read_kohya(contents: FileContents) -> Draft | None:
    """kohya sd-scripts, and EasyNegative: `emb_params`."""
    tensors = _tensors(contents.data)
    if tensors is None or tensors.keys() != {"emb_params"}:
        return None
    return Draft(key_by_width(tensors["emb_params"]))


def _read_onetrainer(contents: FileContents) -> Draft | None:
    """OneTrainer for SD 1.x and 2.x: `emp_params`, its own spelling."""
    tensors = _tensors(contents.data)
    if tensors is None or not tensors.keys() <= {"emp_params", "emp_params_out"}:
        return None
    inputs, notes = _without_outputs(tensors, "emp_params")
    return Draft(key_by_width(inputs["emp_params"]), notes=notes)


def _refuse_xti(contents: FileContents) -> Draft | None:
    """kohya's extended textual inversion: vectors for every layer of the U-Net."""
    tensors = _tensors(contents.data)
    if tensors is None or not all(re.fullmatch(r"(IN|OUT)\d\d|MID", key) for key in tensors):
        return None
    raise InputError(
        "a kohya XTI embedding, with other vectors for each U-Net layer, which are not supported; "
        "train it with train_textual_inversion.py for one set of vectors"
    )


def _read_list(contents: FileContents) -> Draft | None:
    """Old diffusers and ComfyUI exports: a list of dictionaries whose vectors follow one another."""
    if not isinstance(contents.data, (list, tuple)):
        return None
    import torch

    rows: dict[str, list[Tensor]] = {}
    names = []
    for item in contents.data:
        tensors = _tensors(item)
        if tensors is None:
            raise InputError("a list with something else than dictionaries of tensors in it")
        for token, tensor in tensors.items():
            ((key, vectors),) = key_by_width(tensor).items()
            rows.setdefault(key, []).append(vectors.reshape(-1, vectors.shape[-1]))
            names.append(token)
    if not rows:
        raise InputError("an empty list: there are no vectors in it")
    return Draft({key: torch.cat(parts) for key, parts in rows.items()}, internal_name=names[0])


def _read_diffusers(contents: FileContents) -> Draft | None:
    """diffusers' script: the placeholder token and its vectors."""
    tensors = _tensors(contents.data)
    if tensors is None or len(tensors) != 1:
        return None
    ((token, tensor),) = tensors.items()
    return Draft(key_by_width(tensor), internal_name=token)


def _write_diffusers(embedding: Embedding, vectors: "dict[str, Tensor]") -> dict[str, Any]:
    return {embedding.provenance.internal_name or f"<{embedding.name}>": _only(vectors, "diffusers")}


def _write_kohya(_embedding: Embedding, vectors: "dict[str, Tensor]") -> dict[str, Any]:
    return {"emb_params": _only(vectors, "kohya")}


def _write_a1111(embedding: Embedding, vectors: "dict[str, Tensor]") -> dict[str, Any]:
    provenance = embedding.provenance
    return {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": _only(vectors, "a1111")},
        "name": provenance.internal_name or embedding.name,
        "step": provenance.step,
        "sd_checkpoint": provenance.metadata.get(SD_CHECKPOINT),
        "sd_checkpoint_name": provenance.base_model,
    }


def _write_sdxl(_embedding: Embedding, vectors: "dict[str, Tensor]") -> dict[str, Any]:
    if vectors.keys() != {"clip_l", "clip_g"}:
        raise InputError(f"the sdxl layout is for clip_l and clip_g, not {_list(vectors)}; take diffusers")
    return dict(vectors)


LAYOUTS: dict[str, Layout] = {
    "a1111": Layout("the A1111 web UI and DreamArtist", _read_a1111, _write_a1111, (".pt",)),
    "sdxl": Layout("SDXL, by kohya and OneTrainer", _read_sdxl, _write_sdxl),
    "kohya": Layout("kohya sd-scripts", _read_kohya, _write_kohya),
    "onetrainer": Layout("OneTrainer", _read_onetrainer),
    "xti": Layout("kohya's extended textual inversion, which is refused", _refuse_xti),
    "list": Layout("old diffusers and ComfyUI exports", _read_list),
    "diffusers": Layout("diffusers", _read_diffusers, _write_diffusers),
}
"""In the order in which readers are asked, but for diffusers', which is the last."""


class _Writable(Mapping[str, Layout]):
    """The layouts of the table that have a writer, as the table is when asked."""

    def __getitem__(self, name: str) -> Layout:
        if LAYOUTS[name].write is None:
            raise KeyError(name)
        return LAYOUTS[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name, layout in LAYOUTS.items() if layout.write is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


WRITABLE: Mapping[str, Layout] = _Writable()
"""What `--layout` offers."""


def recognise(contents: FileContents) -> tuple[str, Draft]:
    """Returns the name of the layout and what its reader found.

    Raises:
        InputError: no layout fits; the message says what the file looks like instead.
    """
    for name in sorted(LAYOUTS, key="diffusers".__eq__):  # any name may be one of its tokens
        draft = LAYOUTS[name].read(contents)
        if draft is not None:
            return name, draft
    tensors = _tensors(contents.data)
    if tensors is None:
        raise InputError("there are no vectors in it")
    first = next(iter(tensors))
    if any("lora" in key for key in tensors):
        raise InputError("a LoRA, not an embedding; give it as --lora")
    raise InputError(f"{len(tensors)} tensors ('{first}', ...) in no layout of an embedding; is it a model?")


def _tensors(data: Any) -> "dict[str, Tensor] | None":
    """The data as a dictionary of at least one tensor by name, or None if it is anything else."""
    from torch import Tensor

    if not isinstance(data, Mapping) or not data:
        return None
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in data.items()):
        return None
    return dict(data)


def _without_outputs(
    tensors: "dict[str, Tensor]", *names: str
) -> "tuple[dict[str, Tensor], tuple[str, ...]]":
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


def _only(vectors: "dict[str, Tensor]", layout: str) -> "Tensor":
    if len(vectors) > 1:
        raise InputError(f"the {layout} layout holds one encoder's vectors, not {_list(vectors)}; take sdxl")
    return next(iter(vectors.values()))


def _list(vectors: "dict[str, Tensor]") -> str:
    return " and ".join(vectors)

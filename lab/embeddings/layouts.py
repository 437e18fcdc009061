"""File layouts of embeddings: what the tensors in a file mean. One table of readers and writers. Imports no torch.

To add a layout, add an entry to `LAYOUTS`; one with a writer is offered by `--layout` at once.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.embeddings import layout_readers as readers
from lab.embeddings.containers import FileContents
from lab.embeddings.embedding import Embedding, Place
from lab.embeddings.parts import Draft, shown, tensors_of, text, unused, whole
from lab.errors import InputError, did_you_mean
from lab.models.detection import is_of_model
from lab.models.file_kinds import EMBEDDING, MODEL, FileKind, file_kind

if TYPE_CHECKING:
    from torch import Tensor


PACKED = (".safetensors", ".bin", ".pt")
"""What files of embeddings end in; only the first kind has room for metadata."""

READ = (*PACKED, ".pti")
"""Likewise, of those that are read: cog-sdxl calls its safetensors `embeddings.pti`."""


@dataclass(frozen=True)
class Layout:
    """One way to lay an embedding out in a file.

    Attributes:
        label: Whose it is, for help texts and pages.
        read: From a file's contents to what they say, or None if they are not in this layout. Raises `InputError`
            for one that is and cannot be used.
        write: From an embedding with checked vectors to the dictionary that its file holds; None for a layout that
            is read only. Raises `InputError` for an embedding that has no place in it.
        suffixes: Of the files that it can be written to.
        places: Of embeddings that it can hold, as `Embedding.place` has them.
    """

    label: str
    read: Callable[[FileContents], Draft | None]
    write: "Callable[[Embedding, dict[str, Tensor]], dict[str, Any]] | None" = None
    suffixes: tuple[str, ...] = PACKED
    places: tuple[Place, ...] = ("input",)


def _write_onetrainer(embedding: Embedding, vectors: "dict[str, Tensor]") -> dict[str, Any]:
    own = {"emp_params": _only(vectors, "onetrainer")}
    return own | ({"emp_params_out": _only(embedding.outputs, "onetrainer")} if embedding.outputs else {})


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
        readers.SD_CHECKPOINT: provenance.metadata.get(readers.SD_CHECKPOINT),
        "sd_checkpoint_name": provenance.base_model,
    }


def _write_sdxl(embedding: Embedding, vectors: "dict[str, Tensor]") -> dict[str, Any]:
    if vectors.keys() != {"clip_l", "clip_g"}:
        raise InputError(f"the sdxl layout is for clip_l and clip_g, not {_list(vectors)}; take diffusers")
    return vectors | {f"{key}_out": rows for key, rows in embedding.outputs.items()}


def _write_xti(embedding: Embedding, _vectors: "dict[str, Tensor]") -> dict[str, Any]:
    return dict(embedding.layers)


BOTH_ENDS: tuple[Place, ...] = ("input", "output")

LAYOUTS: dict[str, Layout] = {
    "a1111": Layout("the A1111 web UI and DreamArtist", readers.read_a1111, _write_a1111, (".pt",)),
    "bundle": Layout("OneTrainer's bundles, also inside a LoRA", readers.read_bundle),
    "sdxl": Layout(
        "SDXL, by kohya, OneTrainer and cog-sdxl", readers.read_named, _write_sdxl, places=BOTH_ENDS
    ),
    "kohya": Layout("kohya sd-scripts", readers.read_kohya, _write_kohya),
    "onetrainer": Layout("OneTrainer", readers.read_onetrainer, _write_onetrainer, places=BOTH_ENDS),
    "xti": Layout("kohya's extended textual inversion", readers.read_xti, _write_xti, places=("layers",)),
    "list": Layout("a list of dictionaries, as ComfyUI reads them", readers.read_list),
    "tensor": Layout("one tensor without a name", readers.read_bare),
    "diffusers": Layout("diffusers", readers.read_diffusers, _write_diffusers),
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


def check_target(path: Path, layout: str | None = None) -> None:
    """Refuses a file that no embedding can be written to in a layout, by its name; nothing is read.

    Args:
        layout: A name in `WRITABLE`, or None where the embedding decides.

    Raises:
        InputError: no such layout (with the nearest names), or another suffix than it can have.
    """
    if layout is not None and layout not in WRITABLE:
        raise InputError(f"no layout '{layout}' to write{did_you_mean(layout, WRITABLE)}")
    suffix, suffixes = path.suffix.lower(), WRITABLE[layout].suffixes if layout else PACKED
    if suffix not in PACKED:
        raise InputError(f"{path}: an embedding file ends in .safetensors, .pt or .bin")
    if suffix not in suffixes:
        others = " or ".join(name for name in ("diffusers", "kohya") if name != layout)
        raise InputError(
            f"{path}: the {layout} layout is a {' or '.join(suffixes)} file; for {suffix} take {others}"
        )


_ACTING: dict[Place, str] = {
    "input": "vectors in front of the text encoder",
    "output": "an output embedding",
    "layers": "vectors for each layer of a U-Net",
}


def check_place(layout: str, place: Place) -> None:
    """Refuses a layout that cannot say where an embedding acts.

    Args:
        layout: A name in `WRITABLE`.

    Raises:
        InputError: with those that can.
    """
    if place not in WRITABLE[layout].places:
        others = [name for name, other in WRITABLE.items() if place in other.places]
        raise InputError(
            f"the {layout} layout has no place for {_ACTING[place]}; take {' or '.join(sorted(others))}"
        )


def recognise(contents: FileContents) -> tuple[str, Draft]:
    """Returns the name of the layout and what its reader found.

    Raises:
        InputError: no layout fits; the message says what the file looks like instead.
    """
    tensors = tensors_of(contents.data)
    names = [str(key) for key in contents.data] if isinstance(contents.data, Mapping) else []
    for name in sorted(LAYOUTS, key="diffusers".__eq__):  # any name may be one of its tokens
        other = _other_kind(tensors or names) if name == "diffusers" else None
        if other is not None:
            raise InputError(other.instead_of("an embedding"))
        draft = LAYOUTS[name].read(contents)
        if draft is not None:
            return name, draft if name == "a1111" else _with_plain_values(draft, contents.data)
    if tensors is None:
        raise InputError(f"there are no vectors in it{_holding(names)}")
    first = next(iter(tensors))
    raise InputError(f"{len(tensors)} tensors ('{first}', ...) in no layout of an embedding; is it a model?")


def _other_kind(names: Iterable[str]) -> FileKind | None:
    """What a file is, by the names of its tensors, if it is no embedding."""
    if is_of_model(names):
        return MODEL
    kind = file_kind(names)
    return None if kind == EMBEDDING else kind


def _holding(names: Sequence[str]) -> str:
    return f"; it holds {shown(names)}" if names else ""


def _with_plain_values(draft: Draft, data: Any) -> Draft:
    """Takes name and step from what stands beside the vectors, and names the rest."""
    from torch import Tensor

    vectors = tensors_of(data)
    if not isinstance(data, Mapping) or vectors is None:
        return draft
    rest = [key for key in data if key not in vectors and key not in ("name", "step")]
    name = None if isinstance(data.get("name"), Tensor) else text(data.get("name"))
    return replace(
        draft,
        internal_name=draft.internal_name or name,
        step=whole(data.get("step")) if draft.step is None and "step" not in vectors else draft.step,
        notes=(*draft.notes, *unused(rest)),
    )


def _only(vectors: "dict[str, Tensor]", layout: str) -> "Tensor":
    if len(vectors) > 1:
        raise InputError(f"the {layout} layout holds one encoder's vectors, not {_list(vectors)}; take sdxl")
    return next(iter(vectors.values()))


def _list(vectors: "dict[str, Tensor]") -> str:
    return " and ".join(vectors)

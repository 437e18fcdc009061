"""A learned textual-inversion embedding as a value, and what its vectors have to be. Imports no torch."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lab.errors import InputError
from lab.models.family import encoder_key, family_with_keys

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["concept", "style", "negative", "slider", "unknown"]

Place = Literal["input", "output", "layers"]
"""Where vectors act: in front of the text encoder, behind it, or others in each of the U-Net's layers."""

NEGATIVE_SUFFIX = "-neg"
"""DreamArtist's name for the negative half of a pair, and A1111 users' habit for negative embeddings."""

PARTNER = "lab.partner"
"""The key of a file's metadata that says that it is half of a pair, and what the other half is called."""

INITIAL_TEXT = "lab.initial_text"
"""Likewise of what says, in words, where its vectors began when they were learned."""


@dataclass(frozen=True)
class Provenance:
    """Where an embedding comes from, as far as its file says.

    Attributes:
        layout: The file layout it was read from, a name in the table of `layouts.py`.
        internal_name: The name or trigger token stored inside the file, which may differ from the file's.
        step: The training step at which it was saved.
        base_model: The model it was trained on, by whatever name the file gives.
        path: The file that it was read from.
        sha256: Of the file's bytes (of the vectors' bytes for an embedding that was never in a file).
        metadata: What else the file says of itself, as text.
        notes: What the file holds that is not used.
    """

    layout: str = "memory"
    internal_name: str | None = None
    step: int | None = None
    base_model: str | None = None
    path: Path | None = None
    sha256: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Embedding:
    """Learned vectors that a prompt can name.

    Attributes:
        name: What prompts call it: the file's stem unless given.
        vectors: (n, width) float32 on the CPU for each encoder: `clip_l` 768 wide, `clip_h` 1024,
            `clip_g` 1280, `clip` for any other width, unless the file itself names the encoder.
            All have the same n.
        kind: What it was trained as, if known.
        outputs: (n, width) likewise, that take the place of its rows behind the encoder, after all weights, as
            OneTrainer's output embeddings do, whose vectors in front of it are zeros. Empty for nearly all embeddings.
        foreign: (n, width) for text encoders that no model of the lab's families has, by their names in the file.
        layers: (n, width) for each of `XTI_LAYERS`: other vectors for the text that each cross-attention layer of the
            U-Net reads, whose mean its vectors are (P+, 2303.09522). Empty for nearly all embeddings.
    """

    name: str
    vectors: "dict[str, Tensor]"
    kind: Kind = "unknown"
    provenance: Provenance = field(default_factory=Provenance)
    outputs: "dict[str, Tensor]" = field(default_factory=dict)
    foreign: "dict[str, Tensor]" = field(default_factory=dict)
    layers: "dict[str, Tensor]" = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.provenance.sha256:
            _check_made(self.name, self.vectors)
            known = replace(self.provenance, sha256=vectors_sha256(self.tensors))
            object.__setattr__(self, "provenance", known)

    @property
    def tensors(self) -> "dict[str, Tensor]":
        """All that it is made of: its vectors, its outputs with `_out` behind the encoder's name, and its layers'."""
        return self.vectors | {f"{key}_out": rows for key, rows in self.outputs.items()} | self.layers

    @property
    def place(self) -> Place:
        """Where what was learned acts."""
        return "layers" if self.layers else "output" if self.outputs else "input"

    def at_layer(self, layer: str) -> "Embedding":
        """What one cross-attention layer reads of an embedding that has `layers`."""
        return replace(self, vectors=dict.fromkeys(self.vectors, self.layers[layer]), layers={})

    @property
    def count(self) -> int:
        """How many vectors it has, that is, how many token positions it takes."""
        return next(iter(self.vectors.values())).shape[0]

    @property
    def widths(self) -> dict[str, int]:
        """The length of a vector for each encoder."""
        return {key: tensor.shape[1] for key, tensor in self.vectors.items()}

    @property
    def a1111_hash(self) -> str:
        """What A1111 lists under `TI hashes`: the first 12 digits of the file's sha256."""
        return self.provenance.sha256[:12]

    @property
    def a1111_checksum(self) -> str | None:
        """The 4 digits in brackets behind an embedding's name in A1111; None for two encoders or huge values.

        As in stable-diffusion-webui, modules/textual_inversion/textual_inversion.py, `Embedding.checksum`:
        over all values v of the vectors, r = (r * 281) xor (trunc(100 v) * 997) in 32 bits; the last 16.
        """
        if len(self.vectors) > 1:
            return None
        (tensor,) = self.vectors.values()
        if not (tensor * 100).isfinite().all():  # the web UI would stop at it
            return None
        checksum = 0
        for value in (tensor.reshape(-1) * 100).tolist():
            checksum = (checksum * 281 ^ int(value) * 997) & 0xFFFFFFFF
        return f"{checksum & 0xFFFF:04x}"

    def save(
        self, path: str | Path, layout: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> None:
        """Writes the embedding to a file, reads it back and compares it before the file has its name.

        Args:
            path: `.safetensors`, or `.pt` or `.bin` for a `torch.save` file.
            layout: `diffusers`, `kohya` or `a1111` (`.pt` only) for one encoder, `sdxl` for two; by default
                `diffusers` or `sdxl`. Behind the encoder, `onetrainer` or `sdxl`; for the U-Net's layers, `xti`.
            metadata: More text to store, in a safetensors file alone.

        Raises:
            InputError: a layout or suffix that cannot hold it, unusable vectors, or a file that cannot be written.
        """
        from lab.embeddings.write import save

        save(self, Path(path), layout, metadata)


FAR = 25
"""Norms that are so many times another are far from it; learned vectors often have ten times that of words."""

CLIP_NORM = 0.4
"""About the norm of a word's vector in CLIP, for where no model is at hand."""


def norms_apart(tensor: "Tensor", usual: float) -> str:
    """Says that vectors (n, width) have norms far from the usual one, such as words'; "" if not."""
    norms = tensor.double().norm(dim=-1)
    low, high = float(norms.min()), float(norms.max())
    if usual / FAR <= low and high <= usual * FAR:
        return ""
    span = f"a norm of {high:.3g}" if len(norms) == 1 else f"norms of {low:.3g} to {high:.3g}"
    return f"{span}, where words have about {usual:.2g}: damaged, or made for another model"


def family(embedding: Embedding) -> str:
    """The model family that has these text encoders, as far as their widths tell."""
    traits = family_with_keys(embedding.vectors)
    return traits.short_label if traits else "unknown"


XTI_LAYERS = (
    *("IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "MID"),
    *("OUT03", "OUT04", "OUT05", "OUT06", "OUT07", "OUT08", "OUT09", "OUT10", "OUT11"),
)
"""The cross-attention layers of SD 1.x's U-Net from its input to its output, as kohya's XTI calls them."""


class ForeignEmbeddingError(InputError):
    """An embedding for other families alone: there is nothing in it that a prompt could name, but much to look at.

    Attributes:
        vectors: (n, width) by the names of their text encoders in the file.
    """

    def __init__(self, message: str, vectors: "Mapping[str, Tensor]"):
        super().__init__(message)
        self.vectors = vectors


T5_WIDTH = 4096
"""Of T5-XXL, which no model of the lab's families has."""

MAX_VALUES = 16 * 1024**2
"""The most values an embedding may hold: 8,192 vectors for SDXL. More is a mistake or an attack."""


def key_by_width(tensor: "Tensor") -> "dict[str, Tensor]":
    """Vectors (n, width), (1, n, width) or (width,) by the name of the encoder that has their width.

    Raises:
        InputError: another shape, or vectors for T5 (`ForeignEmbeddingError`).
    """
    if tensor.ndim == 3 and len(tensor) == 1:
        tensor = tensor[0]
    if tensor.ndim not in (1, 2):
        raise InputError(f"vectors have the shape {tuple(tensor.shape)}; expected (n, width) or (width,)")
    if tensor.numel() == 0:
        raise InputError(f"there are no vectors in it (shape {tuple(tensor.shape)})")
    if tensor.shape[-1] == T5_WIDTH:
        raise ForeignEmbeddingError(
            f"vectors {T5_WIDTH} wide are for T5, the text encoder of SD3 and Flux; the lab reads those for CLIP",
            {"t5": tensor},
        )
    return {encoder_key(tensor.shape[-1]): tensor}


def check_vectors(vectors: "Mapping[str, Tensor]", zeros: bool = False) -> "dict[str, Tensor]":
    """Returns the vectors as (n, width) float32 on the CPU, their own storage, without gradients.

    Args:
        zeros: Whether they may all be zero.

    Raises:
        InputError: a shape other than (n, width) or (width,), no floating point, no vectors or too many,
            NaN or infinite values, all zero, or another n for one encoder than for another.
    """
    rows = {key: _check_rows(tensor, key, zeros) for key, tensor in vectors.items()}
    if len({tensor.shape[0] for tensor in rows.values()}) > 1:
        counts = ", ".join(f"{tensor.shape[0]} for {key}" for key, tensor in rows.items())
        raise InputError(f"the encoders have different numbers of vectors: {counts}")
    return rows


def _check_made(name: str, vectors: object) -> None:
    """Refuses what no embedding made by hand can be.

    Raises:
        InputError: no tensors (n, width) by the names of encoders.
    """
    tensors = vectors.values() if isinstance(vectors, Mapping) else ()
    if not tensors or not all(getattr(tensor, "ndim", 0) == 2 and len(tensor) for tensor in tensors):
        raise InputError(
            f"embedding {name!a}: expected tensors (n, width) by encoder, as in {{'clip_l': torch.randn(2, 768)}}"
        )


def vectors_sha256(vectors: "Mapping[str, Tensor]") -> str:
    """The sha256 of the vectors' bytes, encoder by encoder in alphabetical order."""
    digest = hashlib.sha256()
    for key in sorted(vectors):
        digest.update(vectors[key].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_outputs(outputs: "Mapping[str, Tensor]", vectors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Returns what goes behind the encoders like `check_vectors`.

    Raises:
        InputError: likewise, or for another encoder or of another number than the vectors in front of them.
    """
    rows = check_vectors(outputs)
    for key, tensor in rows.items():
        if key not in vectors or vectors[key].shape != tensor.shape:
            raise InputError(f"its output embedding for {key} has another shape than its vectors")
    return rows


def _check_rows(tensor: "Tensor", key: str, zeros: bool = False) -> "Tensor":
    import torch

    shape = tuple(tensor.shape)
    if tensor.ndim not in (1, 2):
        raise InputError(f"vectors for {key} have the shape {shape}; expected (n, width) or (width,)")
    if tensor.numel() == 0:
        raise InputError(f"there are no vectors in it (shape {shape})")
    if tensor.numel() > MAX_VALUES:  # before any copy: an expanded view may claim any size
        raise InputError(f"vectors of the shape {shape} are too many for an embedding")
    if tensor.layout != torch.strided or not tensor.dtype.is_floating_point:
        raise InputError(f"vectors are {str(tensor.dtype).removeprefix('torch.')}; expected floating point")
    rows = tensor.detach().to("cpu", torch.float32, copy=True).reshape(-1, shape[-1]).contiguous()
    if not rows.isfinite().all():
        broken = int((~rows.isfinite()).any(dim=1).sum())
        raise InputError(
            f"{broken} of {len(rows)} vectors for {key} hold NaN or infinity; its training failed"
        )
    if not zeros and not rows.any():
        raise InputError(f"all vectors for {key} are zero: it was never trained")
    return rows

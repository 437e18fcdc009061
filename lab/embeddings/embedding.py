"""A learned textual-inversion embedding as a value."""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Kind = Literal["concept", "style", "negative", "unknown"]

ENCODER_BY_WIDTH = {768: "clip_l", 1024: "clip_h", 1280: "clip_g"}
"""SD 1.x's and SDXL's first encoder, SD 2.x's, and SDXL's second; any other width is plain `clip`."""


def encoder_key(width: int) -> str:
    """The name of the text encoder that has this width."""
    return ENCODER_BY_WIDTH.get(width, "clip")


@dataclass(frozen=True)
class Provenance:
    """Where an embedding comes from, as far as its file says.

    Attributes:
        layout: The file layout it was read from, a key of the table in `formats.py`.
        internal_name: The name or trigger token stored inside the file, which may differ from the file's.
        step: The training step at which it was saved.
        base_model: The model it was trained on, by whatever name the file gives.
        sha256: Of the file's bytes (of the vectors' bytes for an embedding that was never in a file).
    """

    layout: str = "memory"
    internal_name: str | None = None
    step: int | None = None
    base_model: str | None = None
    sha256: str = ""


@dataclass(frozen=True)
class Embedding:
    """Learned vectors that a prompt can name.

    Attributes:
        name: What prompts call it: the file's stem unless given.
        vectors: (n, width) float32 on the CPU for each encoder: `clip_l` 768 wide, `clip_h` 1024,
            `clip_g` 1280, `clip` for any other width. All have the same n.
        kind: What it was trained as, if known.
    """

    name: str
    vectors: dict[str, Tensor]
    kind: Kind = "unknown"
    provenance: Provenance = field(default_factory=Provenance)

"""Weight arithmetic: from what an encoder makes of a text to what its weights make of that. One table.

    z  (chunks, context, width)  hidden states of the text
    e  (context, width)          hidden states of an empty chunk
    w  (chunks, context)         weights, 1 for start, end, padding and unweighted tokens

SDXL's two encoders are weighted each for itself, as every tool does. The module needs no torch to be imported.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class EncodedText:
    """A text's chunks as one encoder sees them: what weight arithmetic works on.

    Attributes:
        z: (chunks, context, width) float32 hidden states of the text.
        e: (context, width) float32 hidden states of an empty chunk.
        w: (chunks, context) float32 weights, 1 for start, end, padding and unweighted tokens.
        ids: (chunks, context) token ids; those of learned vectors are past the vocabulary's end.
        fragments: Each run of tokens under one weight, in order, with that weight.
        special_ids: The encoder's start, end and padding tokens.
        encode: (ids (b, context), mask (b, context) of ones and zeros) to hidden states (b, context, width).
    """

    z: "Tensor"
    e: "Tensor"
    w: "Tensor"
    ids: "Tensor"
    fragments: Sequence[tuple[Sequence[int], float]]
    special_ids: tuple[int, int, int]
    encode: "Callable[[Tensor, Tensor], Tensor]"


@dataclass(frozen=True)
class Weighting:
    """An arithmetic for weighted words.

    Attributes:
        label: What it does, for help texts and pages.
        a1111: What the A1111 web UI calls it; None if it has none such.
        over_schedule: The same for all texts that a schedule switches between, where each has a say in the others, as
            in the web UI; None if each stands for itself. Takes z (chunks, rows, width) and w (chunks, rows), the
            texts' rows side by side.
        apply: From a text to its hidden states (chunks, context, width) float32 under its weights.
    """

    label: str
    apply: "Callable[[EncodedText], Tensor]"
    a1111: str | None = None
    over_schedule: "Callable[[Tensor, Tensor], Tensor] | None" = None


def _keep_mean(text: EncodedText) -> "Tensor":
    """z w mean(z) / mean(z w), each chunk with its own means."""
    return _keep_mean_over(text.z, text.w)


def _keep_mean_over(z: "Tensor", w: "Tensor") -> "Tensor":
    weighted = z * w[..., None]
    for chunk in range(len(z)):
        mean = weighted[chunk].mean()
        if mean != 0 and (w[chunk] != 1).any():
            weighted[chunk] *= z[chunk].mean() / mean
    return weighted


def _scale(text: EncodedText) -> "Tensor":
    """z w."""
    return text.z * text.w[..., None]


def _from_empty(text: EncodedText) -> "Tensor":
    """e + w (z - e), where w is not 1: ComfyUI's comfy/sd1_clip.py."""
    w = text.w[..., None]
    return text.z.where(w == 1, text.e + w * (text.z - text.e))


def _compel(text: EncodedText) -> "Tensor":
    """e + w (z - e) above 1; below 1 also an average with encodings in which the fragment is masked."""
    from lab.condition.compel_weighting import weigh_by_compel  # the library takes a moment to import

    return weigh_by_compel(text)


def _ignore(text: EncodedText) -> "Tensor":
    """z."""
    return text.z


WEIGHTINGS: dict[str, Weighting] = {
    "a1111": Weighting(
        "scales, and keeps each chunk's mean (the web UI's Original emphasis)",
        _keep_mean,
        "Original",
        _keep_mean_over,
    ),
    "a1111-no-norm": Weighting("scales (the web UI's No norm emphasis)", _scale, "No norm"),
    "comfy": Weighting("goes from the empty text towards the words (ComfyUI)", _from_empty),
    "compel": Weighting("the compel library's own arithmetic", _compel),
    "ignore": Weighting("drops weights", _ignore, "Ignore"),
}

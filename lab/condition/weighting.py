"""Weight arithmetic: from what an encoder makes of a text to what its weights make of that.

    z  (chunks, context, width)  hidden states of the text
    e  (context, width)          hidden states of an empty chunk
    w  (chunks, context)         weights, 1 for start, end, padding and unweighted tokens

SDXL's two encoders are weighted each for itself, as every tool does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lab.condition.options import Dialect, Weighting


@dataclass(frozen=True)
class Weighted:
    """A text as one encoder sees it.

    Attributes:
        z, e, w: As above, float32.
        ids: (chunks, context) token ids.
        fragments: Each run of tokens under one weight, in order, with that weight.
        special_ids: The encoder's start, end and padding tokens.
        encode: (ids (b, context), mask (b, context) of ones and zeros) to hidden states (b, context, width).
    """

    z: Tensor
    e: Tensor
    w: Tensor
    ids: Tensor
    fragments: Sequence[tuple[Sequence[int], float]]
    special_ids: tuple[int, int, int]
    encode: Callable[[Tensor, Tensor], Tensor]


def a1111(text: Weighted) -> Tensor:
    """z w mean(z) / mean(z w), each chunk with its own means: the web UI's "Original" emphasis.

    The web UI takes the means over all variants of a scheduled prompt at once; here each text stands for itself.
    """
    return torch.stack([_keep_mean(z, w) for z, w in zip(text.z, text.w, strict=True)])


def _keep_mean(z: Tensor, w: Tensor) -> Tensor:
    weighted = z * w[:, None]
    mean = weighted.mean()
    if mean == 0 or (w == 1).all():
        return weighted
    return weighted * (z.mean() / mean)


def a1111_no_norm(text: Weighted) -> Tensor:
    """z w: the web UI's "No norm" emphasis."""
    return text.z * text.w[..., None]


def comfy(text: Weighted) -> Tensor:
    """e + w (z - e), where w is not 1: ComfyUI's comfy/sd1_clip.py."""
    w = text.w[..., None]
    return torch.where(w == 1, text.z, text.e + w * (text.z - text.e))


def compel(text: Weighted) -> Tensor:
    """The compel library's arithmetic, done by the library.

    Above 1: e + w (z - e). Below 1 it also averages with encodings in which the fragment is masked.
    """
    from lab.condition.provider import weigh  # the library takes a moment to import

    return weigh(text)


def ignore(text: Weighted) -> Tensor:
    """z: weights are dropped."""
    return text.z


WEIGHTINGS: Mapping[Weighting, Callable[[Weighted], Tensor]] = {
    "a1111": a1111,
    "a1111-no-norm": a1111_no_norm,
    "comfy": comfy,
    "compel": compel,
    "ignore": ignore,
}

OWN_WEIGHTING: Mapping[Dialect, Weighting] = {
    "a1111": "a1111",
    "comfy": "comfy",
    "compel": "compel",
    "plain": "ignore",
}
"""Each dialect's own arithmetic."""

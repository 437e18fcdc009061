"""How much of what one text does to images another does: the measure of vectors that stand for a text.

    a  features of the images without either        b  with the text        c  with the vectors, on the same noise

    share = 1 - sum |c - b|^2 / sum |a - b|^2

1 where the vectors give the text's images, 0 where they are as far from them as nothing is, below 0 where they are
farther. It is the loss of the text objective, carried from prompt embeddings to images: what the vectors do besides
counts against them as much as what they leave undone. CLIP features ask whether the images show the same; pixels ask
whether they are the same, which guidance over many steps makes a stern question.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lab.images import to_tensor
from lab.models.bundle import Bundle
from lab.sample.generate import generate
from lab.score.clip import Clip


class Share(NamedTuple):
    """A share and twice its standard error, infinite for a single image."""

    value: float
    margin: float

    def __str__(self) -> str:
        return f"{100 * self.value:.0f} %" + (
            f" ± {100 * self.margin:.0f}" if math.isfinite(self.margin) else ""
        )


def image_share(
    bundle: Bundle,
    clip: Clip | None,
    common: Mapping[str, Any],
    nothing: Mapping[str, Any],
    text: Mapping[str, Any],
    vectors: Mapping[str, Any],
) -> dict[str, Share]:
    """Makes the images three times over and compares them.

    Args:
        clip: What sees them; without it pixels alone are compared.
        common: Settings of `lab.generate` that all images have: prompts, seeds, sampling.
        nothing, text, vectors: Those in which they differ.

    Returns:
        The share by `CLIP features` and `pixels`, with margins over the images.

    Raises:
        InputError: settings that the model cannot serve.
    """
    pixels = [
        to_tensor([result.image for result in generate(bundle, **common, **settings)])
        for settings in (nothing, text, vectors)
    ]
    shares = {"pixels": share(*(images.flatten(1) for images in pixels))}
    if clip is None:
        return shares
    with torch.no_grad():
        return {"CLIP features": share(*map(clip.images, pixels))} | shares


def share(a: Tensor, b: Tensor, c: Tensor) -> Share:
    """The share of rows (n, d) with its margin, by the jackknife over rows; see the module.

    Where the text changes nothing at all, the share is 0 unless the vectors change nothing either.
    """
    missing, effect = (c - b).double().square().sum(dim=1), (a - b).double().square().sum(dim=1)
    if not effect.sum():
        return Share(float(not missing.sum()), math.inf)
    whole = float(1 - missing.sum() / effect.sum())
    count = len(missing)
    if count == 1:
        return Share(whole, math.inf)
    without = 1 - (missing.sum() - missing) / (effect.sum() - effect)
    error = ((count - 1) * without.var(correction=0)).sqrt()
    return Share(whole, 2 * float(error))


def spread(images: int, prompts: Sequence[str]) -> dict[str, Any]:
    """Prompts and seeds of so many images or a few more: a prompt for each as far as they go, then more seeds."""
    chosen = list(prompts[:images])
    return {"prompt": chosen, "seeds": range(1, math.ceil(images / len(chosen)) + 1)}

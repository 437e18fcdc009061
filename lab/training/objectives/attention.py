"""Where the attention of learned words lies in the images, held to the words' own places."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lab.models.attention import Grid, at_one_size, grid_of
from lab.training.data.caption_encoder import CaptionEncoder

LEAST = 1e-12
"""Keeps a map that is nothing everywhere from being divided by its sum."""


def outside(attention: Tensor, region: Tensor) -> Tensor:
    """The share, 0 to 1, of a map of attention (h, w) that lies outside a region (h, w) in 0..1."""
    return (_spread(attention) * (1 - region)).sum()


def overlap(one: Tensor, other: Tensor) -> Tensor:
    """What two maps of attention (h, w) share, 0 to 1."""
    return torch.minimum(_spread(one), _spread(other)).sum()


def _spread(attention: Tensor) -> Tensor:
    """The map with a sum of 1."""
    return attention / attention.sum().clamp_min(LEAST)


class OwnPlaces:
    """How much of the attention that learned things get lies outside their own places in an image.

    What all vectors of a thing get is added up, over layers and heads, into one map. With a mask of the thing, or of
    the whole image, it counts what share of the map lies outside it: the aim of Break-A-Scene's attention loss
    (2305.16311, equation 2), which is the squared distance of map and mask and so asks for a filled mask as well.

    Without one, it counts what the map shares with those of the other things in the caption, or, if there are none,
    with those of its other words, in the mean: twice A-STAR's segregation loss (2306.14544), sum min(A, B) / sum (A +
    B), of maps with a sum of 1, so that less attention everywhere does not serve. Other words' maps are taken as they
    are, and vectors change, where A-STAR changes latents as an image is made.

    Multi-Concept Prompt Learning (2310.12274) has neither: it weighs the denoising loss by where all learned words
    together are attended to, and keeps them apart by a contrastive loss of their vectors.
    """

    def __init__(self, encode: CaptionEncoder, things: Sequence[str]):
        """Takes what tells which rows of prompt embeddings stand for what, and the names of things."""
        self._encode, self._things = encode, things

    def __call__(
        self,
        maps: Mapping[int, Tensor],
        captions: Sequence[str],
        masks: Sequence[Mapping[str, Tensor]],
        size: Grid,
    ) -> Tensor:
        """(b,) means over the things that each caption names, 0 to 1, differentiable in the vectors.

        Args:
            maps: Of one call of the U-Net, see `AttentionRecorder.pop_maps`.
            masks: Of each image, by the names of things: (*size) in 0..1.
            size: Of the latents, (height, width).
        """
        grids = [rows.unflatten(-1, grid_of(pixels, *size)) for pixels, rows in maps.items()]
        whole = at_one_size(grids, size)
        return torch.stack([self._of(*each) for each in zip(whole, captions, masks, strict=True)])

    def _of(self, rows: Tensor, caption: str, masks: Mapping[str, Tensor]) -> Tensor:
        """One caption's mean, of the maps (keys, h, w) of its rows."""
        things: dict[str, Tensor] = {}
        words = []
        for span in self._encode.spans(caption):
            attention = rows[span.start : span.end].sum(dim=0)
            if span.embedding is not None and span.embedding in self._things:
                things[span.embedding] = things.get(span.embedding, 0) + attention
            else:
                words.append(attention.detach())
        found = []
        for name, attention in things.items():
            others = [other.detach() for thing, other in things.items() if thing != name] or words
            if name in masks:
                found.append(outside(attention, masks[name]))
            elif others:
                found.append(torch.stack([overlap(attention, other) for other in others]).mean())
        return torch.stack(found).mean() if found else rows.new_zeros(())

"""What a text does to prompt embeddings, and what of it another text of another length does in its place."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor


class Expected(NamedTuple):
    """What a text makes of contexts, one row each, for others to be held against that stand in its place.

    Attributes:
        states: (contexts, 77, d) the text's hidden states, laid out as the others' rows lie.
        pooled: (contexts, p), for SDXL alone.
        effect: (contexts,) what the text changes of the states: the squared distance to those without it.
        pooled_effect: (contexts,) what it changes of the pooled text.
    """

    states: Tensor
    pooled: Tensor | None
    effect: Tensor
    pooled_effect: Tensor | None

    @classmethod
    def of(cls, text: Tensor, pooled: Tensor | None, nothing: Tensor, without: Tensor | None) -> "Expected":
        """States (contexts, 77, d) and pooled text (contexts, p) that are to be met, and both without the text."""
        effect = (text - nothing)[:, 1:].square().sum(dim=(1, 2))
        if pooled is None or without is None:
            return cls(text, None, effect, None)
        return cls(text, pooled.float(), effect, (pooled.float() - without.float()).square().sum(dim=1))

    def missing(self, states: Tensor, pooled: Tensor | None, places: Tensor) -> Tensor:
        """(b,) shares of the effect that are missing: |other - text|^2 / |nothing - text|^2 over the rows behind the
        start token, and for SDXL the mean of this and the same share of the pooled text.

        Args:
            states: (b, 77, d) of the other text in some of the contexts; `pooled` (b, p) likewise.
            places: (b,) which of the contexts.
        """
        share = (states.float() - self.states[places])[:, 1:].square().sum(dim=(1, 2)) / self.effect[places]
        if pooled is None or self.pooled is None or self.pooled_effect is None:
            return share
        missing = (pooled.float() - self.pooled[places]).square().sum(dim=1)
        return (share + missing / self.pooled_effect[places]) / 2


def laid_out(states: Tensor, rows: Sequence[int], tokens: int) -> Tensor:
    """A prompt's states with other room for one of its texts.

    Args:
        states: (context, d).
        rows: Where the text is to lie, consecutive.
        tokens: How many it has, from the first of these rows on; 0 where it was left out.

    Returns:
        (context, d): row i of the n rows is the mean of the text's i-th n-th, or padding where there is no text; what
        follows is moved up to them, and padding is repeated where there is too little.
    """
    start, count, last = rows[0], len(rows), len(states) - 1
    own = states[last:].expand(count, -1)
    if tokens:
        cuts = [i * tokens // count for i in range(count + 1)]
        groups = [range(start + low, start + max(high, low + 1)) for low, high in pairwise(cuts)]
        own = torch.stack([states[list(group)].mean(dim=0) for group in groups])
    behind = torch.arange(start + count, last + 1, device=states.device) - count + tokens
    return torch.cat([states[:start], own, states[behind.clamp(max=last)]])

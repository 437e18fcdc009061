"""What vectors are to meet that stand for a text: its hidden states, laid out as the vectors lie."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lab.condition.conditioning import Encoding
from lab.condition.embeds_file import read_embeds
from lab.errors import InputError
from lab.models.bundle import Bundle


class Expected(NamedTuple):
    """What the vectors should make of contexts, one row each.

    Attributes:
        states: (contexts, 77, d) the text's hidden states, laid out as the vectors' rows lie.
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


def read_target(path: Path, bundle: Bundle) -> Encoding:
    """The prompt embeddings in a file.

    Raises:
        InputError: none that the model takes, several, or of more than a chunk.
    """
    found = read_embeds(path, bundle, 1)
    if len(set(found.entries)) > 1 or len(found.embeds) > bundle.context_length:
        raise InputError(
            f"embeds: {path} changes over the steps or is longer than {bundle.context_length} rows; vectors stand for "
            "one chunk"
        )
    return found.first


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

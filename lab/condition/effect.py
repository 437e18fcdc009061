"""What a text does to prompt embeddings, and what of it another text of another length does in its place."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from lab.condition.chunks import Chunk
from lab.condition.tokens import Word
from lab.condition.towers import EncodedChunks, encode_chunks
from lab.models.bundle import Bundle

GAP = "{}"
"""Where something is to stand in a context."""


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


class Contexts:
    """Texts with a gap, `{}`, for something to stand in, as the text encoders of one model read them."""

    def __init__(self, bundle: Bundle, texts: Sequence[str], count: int):
        """Takes those of the texts that have room for `count` tokens or vectors."""
        tokenizer, self._towers = bundle.towers[0].tokenizer, len(bundle.towers)
        room = bundle.context_length - 2 - count
        read = {
            text: [tokenizer(part, add_special_tokens=False)["input_ids"] for part in text.split(GAP)]
            for text in texts
        }
        self._parts = {text: parts for text, parts in read.items() if sum(map(len, parts)) <= room}

    @property
    def texts(self) -> list[str]:
        """Those that have room."""
        return list(self._parts)

    def starts(self) -> list[int]:
        """The row at which each one's gap begins; row 0 is the start token's."""
        return [1 + len(before) for before, _ in self._parts.values()]

    def chunks(self, words: Sequence[Word]) -> list[Chunk]:
        """Each one with words in its gap."""
        return [
            Chunk([*self.words([before]), *words, *self.words([after])])
            for before, after in self._parts.values()
        ]

    def words(self, texts: Sequence[Sequence[int]]) -> list[Word]:
        """Token ids as words that every text encoder reads alike; of none there is no word."""
        return [Word("", (tuple(ids),) * self._towers, (0, 0)) for ids in texts if ids]


Spoken = Mapping[str, Tensor]
"""Vectors (n, width) for each text encoder, each of the n to be said by itself."""


class Said:
    """Single vectors in the gaps of contexts, through the text encoders of one model."""

    def __init__(self, bundle: Bundle, texts: Sequence[str]):
        self._bundle = bundle
        self._contexts = Contexts(bundle, texts, 1)

    def states(self, vectors: Spoken) -> Tensor:
        """(n, contexts, rows, d): hidden states with vectors (n, width) for each text encoder, as far as the longest
        context goes."""
        return self._encode(vectors).states.float().unflatten(0, (-1, len(self._contexts.texts)))

    @torch.no_grad()
    def expected(self, vectors: Spoken) -> Expected:
        """What vectors do, for others to be held against, a row for each vector and context."""
        with_them = self._encode(vectors, self._contexts.chunks([]))
        starts, count = self._contexts.starts(), len(next(iter(vectors.values())))
        states, empty = with_them.states[: -len(starts)].float(), with_them.states[-len(starts) :].float()
        nothing = torch.stack([laid_out(row, [start], 0) for row, start in zip(empty, starts, strict=True)])
        pooled = without = None
        if with_them.pooled is not None:
            pooled, without = with_them.pooled.split([len(states), len(starts)])
            without = without.repeat(count, 1)
        return Expected.of(states, pooled, nothing.repeat(count, 1, 1), without)

    @torch.no_grad()
    def lost(self, vectors: Spoken, expected: Expected) -> float:
        """The mean share of what is expected that vectors do not do."""
        encoded, places = self._encode(vectors), torch.arange(len(expected.states))
        places = places.to(encoded.states.device)
        return float(expected.missing(encoded.states, encoded.pooled, places).mean())

    def _encode(self, vectors: Spoken, others: Sequence[Chunk] = ()) -> EncodedChunks:
        """Those with vectors, and other chunks behind them."""
        rows = {key: each.to(self._bundle.device) for key, each in vectors.items()}
        names = [str(number) for number in range(len(next(iter(rows.values()))))]
        words = [Word(name, ((0,),) * len(self._bundle.towers), (0, 0), embedding=name) for name in names]
        named = {
            name: {key: each[place : place + 1] for key, each in rows.items()}
            for place, name in enumerate(names)
        }
        chunks = [chunk for word in words for chunk in self._contexts.chunks([word])]
        return encode_chunks(self._bundle, [*chunks, *others], named, padded=False)

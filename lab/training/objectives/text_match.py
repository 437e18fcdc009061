"""The text objective: vectors that do in a prompt what words do there, learned from the text encoders alone."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from lab.embeddings.embedding import Embedding
from lab.errors import InputError
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.training.config import TrainConfig
from lab.training.data.captions import (
    CaptionChunker,
    CaptionEncoder,
    placeholder,
    read_templates,
    vector_counts,
    vectors_named,
)
from lab.training.learned import Learned
from lab.training.objectives.objective import Cost, Objective, split_evenly

CONTEXTS = "context"
"""The set of templates that a text is learned in where none are given."""

MOST_TOKENS = 10_000
"""Of a text that is counted before it is refused for its length."""

KEPT_APART = 4
"""One context in so many is not learned from: it says how far the vectors came."""


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


class TextMatch(Objective[int]):
    """Vectors that stand for a text, such as a long negative prompt, without images and without the U-Net.

    In each context the prompt embeddings with the vectors are drawn to those with the text. The loss is the share of
    the text's effect that is missing: |vectors - text|^2 / |nothing - text|^2 over the rows behind the start token, and
    for SDXL its mean with the same share of the pooled text. Rows are laid out as the vectors lie: vector i of n stands
    for the mean of the i-th n-th of the text's rows (with more vectors than tokens, tokens are repeated), what follows
    is moved up to it, and where nothing stands, padding does.
    """

    kind = "unknown"
    images_show_it = False
    rate = 0.2
    watched = ("explained",)

    def __init__(self, bundle: Bundle, config: TrainConfig, embeddings: Mapping[str, Embedding]):
        super().__init__(bundle, config, embeddings)
        text = " ".join((config.text or "").split())
        if not text:
            raise InputError("text: there is none for the vectors to stand for; give --text WORDS")
        if config.images is not None:
            raise InputError("images: a text is learned without them; leave them out, or --text")
        self.word = self._text = text
        self._names = [subject.name for subject in config.subjects()]
        counts = {subject.name: subject.vectors for subject in config.subjects()}
        self._others = vectors_named(bundle, [text], embeddings)
        self._whole = CaptionChunker(bundle, vector_counts(self._others) | counts, room=MOST_TOKENS)
        self._contexts, self.skipped = self._fitting(read_templates(config.templates or [CONTEXTS]))
        self._apart = list(range(len(self._contexts)))[KEPT_APART - 1 :: KEPT_APART] or [0]
        self._learned_in = [n for n in range(len(self._contexts)) if n not in self._apart] or [0]

    @classmethod
    def cost(cls, bundle: Bundle, config: TrainConfig) -> Cost:
        """The U-Net takes no part."""
        return Cost(0, 0, 0)

    def fingerprint(self) -> dict[str, str]:
        """The text, and the contexts by number."""
        contexts = {f"context {number}": text for number, text in enumerate(self._contexts, 1)}
        return {"text": self._text} | contexts

    def describe(self) -> Iterator[str]:
        """Yields the text's length and the contexts."""
        yield f"{self._whole(self._text).length} tokens: {self._text}"
        yield f"learned in {len(self._learned_in)} contexts:"
        yield from (f"  {self._contexts[number]}" for number in self._learned_in)
        yield f"and measured in {len(self._apart)} others:"
        yield from (f"  {self._contexts[number]}" for number in self._apart)

    def start(self, learned: Learned, listener: Listener = Listener()) -> None:
        """Takes the vectors, and encodes every context with the text and without it."""
        clip_skip = self.config.clip_skip
        self._encode = CaptionEncoder(self.bundle, {**self._others, **learned.rows}, clip_skip)
        names = " ".join(map(placeholder, self._names))
        self._prompts = [_filled(context, names) for context in self._contexts]
        with torch.no_grad():
            self._expected = self._expect(CaptionEncoder(self.bundle, self._others, clip_skip))

    def batch(self, step: int) -> Sequence[int]:
        """Contexts in shuffled rounds."""
        count = len(self._learned_in)
        examples = []
        for slot in range(self.config.batch_size):
            turn, place = divmod(step * self.config.batch_size + slot, count)
            order = torch.randperm(count, generator=self.config.generator("contexts", turn))
            examples.append(self._learned_in[int(order[place])])
        return examples

    def fixed(self) -> Sequence[Sequence[int]]:
        """The contexts that are kept apart."""
        return split_evenly(self._apart, math.ceil(len(self._apart) / self.config.evaluated_at_once))

    def losses(self, examples: Sequence[int]) -> Tensor:
        """(b,) shares of the text's effect that are missing."""
        expected, places = self._expected, torch.tensor(examples, device=self.bundle.device)
        states, pooled = self._encode([self._prompts[number] for number in examples])
        missing = (states.float() - expected.states[places])[:, 1:].square().sum(dim=(1, 2))
        share = missing / expected.effect[places]
        if pooled is None or expected.pooled is None or expected.pooled_effect is None:
            return share
        missing = (pooled.float() - expected.pooled[places]).square().sum(dim=1)
        return (share + missing / expected.pooled_effect[places]) / 2

    def watch(self, examples: Sequence[int]) -> Tensor:
        """(b, 2): the losses, and the shares of the effect that are there."""
        losses = self.losses(examples)
        return torch.stack([losses, 1 - losses], dim=1)

    def verdict(self, found: Mapping[str, float]) -> str:
        """How much of the text's effect the vectors have where they were not learned."""
        where = f"{len(self._apart)} contexts kept apart"
        if self._apart == self._learned_in:
            where = "the one context that they were learned in"
        return f"In {where} they do {100 * found['explained']:.0f} % of what the text does."

    def _fitting(self, contexts: Sequence[str]) -> tuple[list[str], list[str]]:
        """The contexts in which text and vectors fit into a chunk, and a line on those that do not."""
        room = self.bundle.context_length - 2
        alone = self._whole(self._text).length
        if alone > room:
            raise InputError(f"text: {alone} tokens, and a chunk has {room}; give a shorter one")
        if any("{name}" not in context for context in contexts):
            raise InputError("templates: every context of a text needs a {name}, where the text stands")
        names = " ".join(map(placeholder, self._names))
        fillings = self._text, names
        fitting = [
            context
            for context in dict.fromkeys(contexts)
            if all(self._whole(_filled(context, filling)).length <= room for filling in fillings)
        ]
        if not fitting:
            raise InputError(
                f"templates: beside {alone} tokens of text no context fits into a chunk of {room}"
            )
        left_out = len(set(contexts)) - len(fitting)
        return fitting, [f"contexts left out, too long beside the text: {left_out}"] if left_out else []

    def _expect(self, encode: CaptionEncoder) -> Expected:
        """What the text does in each context, laid out as the vectors lie."""
        fillings = [[_filled(context, filling) for context in self._contexts] for filling in (self._text, "")]
        (states, pooled), (without, without_pooled) = map(encode, fillings)
        text, nothing = [], []
        for number, prompt in enumerate(self._prompts):
            chunk = self._whole(prompt)
            own = [row for word, rows in chunk.rows() if word.embedding in self._names for row in rows]
            rest = chunk.length - len(own)
            lengths = [self._whole(filled[number]).length - rest for filled in fillings]
            text.append(laid_out(states[number].float(), own, lengths[0]))
            nothing.append(laid_out(without[number].float(), own, lengths[1]))
        effect = (torch.stack(text) - torch.stack(nothing))[:, 1:].square().sum(dim=(1, 2))
        if pooled is None or without_pooled is None:
            return Expected(torch.stack(text), None, effect, None)
        pooled_effect = (pooled.float() - without_pooled.float()).square().sum(dim=1)
        return Expected(torch.stack(text), pooled.float(), effect, pooled_effect)


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


def _filled(context: str, filling: str) -> str:
    return " ".join(context.replace("{name}", filling).split())

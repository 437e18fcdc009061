"""The text objective: vectors that do in a prompt what words do there, learned from the text encoders alone."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lab.condition.conditioning import Encoding
from lab.condition.effect import Expected, laid_out
from lab.condition.embeds_file import read_embeds
from lab.embeddings.embedding import Embedding
from lab.errors import InputError
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.score.clip import open_clip
from lab.text import counted, read_lines
from lab.training.config import TrainConfig
from lab.training.data.caption_encoder import CaptionChunker, CaptionEncoder, embeddings_named, vector_counts
from lab.training.data.captions import placeholder, read_templates
from lab.training.image_share import image_share, spread
from lab.training.learned import Learned
from lab.training.objectives.objective import Cost, Objective, split_evenly

CONTEXTS = "context"
"""The set of templates that a text is learned in where none are given."""

MOST_TOKENS = 10_000
"""Of a text that is counted before it is refused for its length."""

KEPT_APART = 4
"""One context in so many is not learned from: it says how far the vectors came."""

MEASURED = 16
"""Images that tell how much of a file's prompt embeddings survives, where nothing else is asked for."""

UNKNOWN = "object"
"""Where the vectors begin that stand for prompt embeddings without words."""


class TextMatch(Objective[int]):
    """Vectors that stand for a text, such as a long negative prompt, without images and without the U-Net.

    In each context the prompt embeddings with the vectors are drawn to those with the text. The loss is the share of
    the text's effect that is missing: |vectors - text|^2 / |nothing - text|^2 over the rows behind the start token, and
    for SDXL its mean with the same share of the pooled text. Rows are laid out as the vectors lie: vector i of n stands
    for the mean of the i-th n-th of the text's rows (with more vectors than tokens, tokens are repeated), what follows
    is moved up to it, and where nothing stands, padding does.

    Prompt embeddings from a file may stand in the text's place. They are a whole prompt, so the vectors alone are the
    one context; where the file does not say which rows are words, as bare tensors do not, row is held against row.
    """

    kind = "unknown"
    images_show_it = False
    rate = 0.2
    watched = ("explained",)

    def __init__(self, bundle: Bundle, config: TrainConfig, embeddings: Mapping[str, Embedding]):
        super().__init__(bundle, config, embeddings)
        text = " ".join((config.text or "").split())
        if bool(text) == (config.embeds is not None):
            raise InputError(
                "text: the vectors stand for words or embeddings; give one, --text WORDS or --embeds FILE"
            )
        if config.embeds is not None and config.templates:
            raise InputError("templates: prompt embeddings are a whole prompt; leave them out, or --embeds")
        self._target: Encoding | None = None
        if config.embeds is not None:
            self._target = _read_target(config.embeds, bundle)
            text = " ".join(span.text for span in self._target.spans if span.embedding is None)
        self._text = text
        self.word = text or UNKNOWN
        self._names = [subject.name for subject in config.subjects()]
        counts = {subject.name: subject.vectors for subject in config.subjects()}
        self._others = embeddings_named(bundle, [text], embeddings)
        self._whole = CaptionChunker(bundle, vector_counts(self._others) | counts, room=MOST_TOKENS)
        usual = [CONTEXTS] if config.embeds is None else ["{name}"]
        self._contexts, self.skipped = self._fitting(read_templates(config.templates or usual))
        self._apart = list(range(len(self._contexts)))[KEPT_APART - 1 :: KEPT_APART] or [0]
        self._learned_in = [n for n in range(len(self._contexts)) if n not in self._apart] or [0]

    @classmethod
    def cost(cls, bundle: Bundle, config: TrainConfig) -> Cost:
        """The U-Net takes no part."""
        return Cost(0, 0, 0)

    def fingerprint(self) -> dict[str, str]:
        """The text, and the contexts by number."""
        contexts = {f"context {number}": text for number, text in enumerate(self._contexts, 1)}
        target = {} if self._target is None else {"embeds": repr(self._target.embeds.tolist())}
        return {"text": self._text} | target | contexts

    def describe(self) -> Iterator[str]:
        """Yields the text's length and the contexts, or the size of the embeddings in its place."""
        if self._target is not None:
            rows, width = self._target.embeds.shape
            yield f"{self.config.embeds}: {counted(rows, 'row')}, {width} wide: {self._text or 'of no known words'}"
            return
        yield f"{counted(self._whole(self._text).length, 'token')}: {self._text}"
        yield f"learned in {counted(len(self._learned_in), 'context')}:"
        yield from (f"  {self._contexts[number]}" for number in self._learned_in)
        yield f"and measured in {len(self._apart)} others:"
        yield from (f"  {self._contexts[number]}" for number in self._apart)

    def start(self, learned: Learned, listener: Listener = Listener()) -> None:
        """Takes the vectors, and encodes every context with the text and without it."""
        clip_skip = self.config.clip_skip
        self._encode = CaptionEncoder(self.bundle, {**self._others, **learned.placed}, clip_skip)
        names = " ".join(map(placeholder, self._names))
        self._prompts = [_filled(context, names) for context in self._contexts]
        with torch.no_grad():
            encode = CaptionEncoder(self.bundle, self._others, clip_skip)
            self._expected = (
                self._expect(encode) if self._target is None else self._expect_file(encode, self._target)
            )

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
        places = torch.tensor(examples, device=self.bundle.device)
        states, pooled, _ = self._encode([self._prompts[number] for number in examples])
        return self._expected.missing(states, pooled, places)

    def watch(self, examples: Sequence[int]) -> Tensor:
        """(b, 2): the losses, and the shares of the effect that are there."""
        losses = self.losses(examples)
        return torch.stack([losses, 1 - losses], dim=1)

    def verdict(self, found: Mapping[str, float], kept: Sequence[Embedding]) -> str:
        """How much of the text's effect the vectors have where they were not learned, and in images."""
        where = f"{len(self._apart)} contexts kept apart"
        if self._apart == self._learned_in:
            where = "the one context that they were learned in"
        if self._target is not None:
            where = "prompt embeddings"
        told = f"In {where} they do {100 * found['explained']:.0f} % of what the text does."
        count = (
            MEASURED if self.config.measured is None and self._target is not None else self.config.measured
        )
        return f"{told} {self._in_images(kept, count)}" if count else told

    def _in_images(self, kept: Sequence[Embedding], count: int) -> str:
        """The share of the effect that survives in images: in the negative prompt of those of the prompt file, or else
        as the prompt itself."""
        config = self.config
        negative = config.prompt_file is not None
        side, file = ("negative_prompt", "negative_embeds") if negative else ("prompt", "embeds")
        prompts = read_lines(config.prompt_file) if config.prompt_file is not None else [""]
        asked = spread(count, prompts)
        common = asked | {"clip_skip": config.clip_skip, "dialect": "plain"}
        common |= {name: getattr(config, name) for name in ("guidance", "scheduler")} | {
            "steps": config.sampling_steps
        }
        common["embeddings"] = [*(self.embeddings[name] for name in self._others), *kept]
        if not negative:
            del common["prompt"]
        names = ", ".join(placeholder(embedding.name) for embedding in kept)
        text = {side: self._text} if config.embeds is None else {file: config.embeds}
        shares = image_share(
            self.bundle, open_clip(self.bundle, config.clip), common, {side: ""}, text, {side: names}
        )
        found = ", ".join(f"{share} in {what}" for what, share in shares.items())
        where = "as a negative prompt" if negative else "as the prompt"
        images = len(asked["prompt"]) * len(asked["seeds"])
        return f"Of what it does to {counted(images, 'image')} {where} they do {found}."

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
        (states, pooled, _), (without, without_pooled, _) = map(encode, fillings)
        text, nothing = [], []
        for number, prompt in enumerate(self._prompts):
            chunk = self._whole(prompt)
            own = [row for word, rows in chunk.rows() if word.embedding in self._names for row in rows]
            rest = chunk.length - len(own)
            lengths = [self._whole(filled[number]).length - rest for filled in fillings]
            text.append(laid_out(states[number].float(), own, lengths[0]))
            nothing.append(laid_out(without[number].float(), own, lengths[1]))
        return Expected.of(torch.stack(text), pooled, torch.stack(nothing), without_pooled)

    def _expect_file(self, encode: CaptionEncoder, target: Encoding) -> Expected:
        """What the embeddings in a file do where the empty prompt was, laid out likewise if their words are known."""
        device = self.bundle.device
        states, pooled = (
            target.embeds.to(device),
            None if target.pooled is None else target.pooled.to(device)[None],
        )
        without, without_pooled, _ = encode([""])
        nothing = without[0].float()
        if target.spans:
            own = [
                row for word, rows in self._whole(self._prompts[0]).rows() if word.embedding for row in rows
            ]
            tokens = max(span.end for span in target.spans) - 1
            states, nothing = laid_out(states, own, tokens), laid_out(nothing, own, 0)
        return Expected.of(states[None], pooled, nothing[None], without_pooled)


def _read_target(path: Path, bundle: Bundle) -> Encoding:
    """The prompt embeddings in a file, with spans where it says which rows are words.

    Raises:
        InputError: none that the model takes, several, or of more than a chunk.
    """
    found = read_embeds(path, bundle, 1)
    if len(set(found.entries)) > 1 or len(found.embeds) > bundle.context_length:
        raise InputError(
            f"embeds: {path} changes over the steps or is longer than {bundle.context_length} rows; vectors stand for "
            "one chunk"
        )
    target = found.first
    bare = any(span.end == len(target.embeds) for span in target.spans)  # no word stands where end tokens do
    return replace(target, spans=()) if bare else target


def _filled(context: str, filling: str) -> str:
    return " ".join(context.replace("{name}", filling).split())

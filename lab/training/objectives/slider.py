"""The slider objective: vectors whose weight says how far images go from what one prompt says to what another does.

    e(c)  the model's prediction for a prompt c, of a noisy picture
    d     e(to) - e(from), the direction (Concept Sliders, 2311.12092, equation 7)
    w     the weight of the vectors in a prompt, under the weight arithmetic of the tools

    s(w)  how much of the direction is wanted at w, so that equal weights look equal and 1 is all that can be seen

    loss = |e(neutral, vectors at w) - e(neutral) - s(w) d|^2 / mean |s(w) d|^2

Weights reach the vectors' own rows behind the text encoder alone. What the vectors do to the rows behind theirs stays
whatever the weight is, and counts as loss as well: at weight 0 nothing is to be left of them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from lab.condition.chunks import Chunk
from lab.condition.effect import laid_out
from lab.condition.towers import encode_chunks, weigh_chunks
from lab.embeddings.embedding import Embedding
from lab.errors import InputError
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.models.unet import call_unet
from lab.training.config import TrainConfig
from lab.training.data.caption_encoder import CaptionChunker, CaptionEncoder, embeddings_named, vector_counts
from lab.training.data.captions import fill_template, read_templates
from lab.training.data.noised import PICTURES, make_pictures, time_ids_of
from lab.training.data.sides import read_sides, words_between
from lab.training.learned import Learned
from lab.training.objectives.objective import Objective, split_evenly
from lab.training.strength import DIALECTS, Strength, Yardstick

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
"""Weights that a slider is learned at."""

ARITHMETICS = ("a1111", "comfy")
"""The weightings that it is learned under. Above 1 compel's is that of ComfyUI, and below it leaves words out, which
needs no learning."""

MEASURED = 4
"""Images at each weight that tell how strong it is, where nothing else is asked for."""

LEAK = 0.1
"""How much the change of the rows behind counts, where changing them as the prompts' own words do is 1."""


class Pick(NamedTuple):
    """An example: a noisy picture and a template by number, the weight and its arithmetic."""

    picture: int
    template: int
    weight: float
    arithmetic: str


class Slider(Objective[Pick]):
    """Vectors whose weight in a prompt is a strength, from two prompts."""

    kind = "slider"
    images_show_it = False
    watched = ("explained",)

    def __init__(self, bundle: Bundle, config: TrainConfig, embeddings: Mapping[str, Embedding]):
        super().__init__(bundle, config, embeddings)
        if config.from_ is None or config.to is None:
            raise InputError("from: a slider leads from one prompt to another; give --from and --to")
        self.sides = read_sides(config)
        texts = [text for side in self.sides for text in side]
        self._others = embeddings_named(bundle, texts, embeddings)
        name = config.subjects()[0].name
        count = config.subjects()[0].vectors
        self._chunker = CaptionChunker(bundle, vector_counts(self._others) | {name: count})
        self._templates = read_templates(config.templates or ["slider"])
        self._prompts = [
            [fill_template(line, side.neutral, [name]) for line in self._templates] for side in self.sides
        ]
        self._name = name
        self.word = words_between(config.from_, config.to) or "object"
        self._strengths: dict[str, Strength] = {}
        self._shares = dict(zip(WEIGHTS, WEIGHTS, strict=True))
        for text in [*texts, *(prompt for prompts in self._prompts for prompt in prompts)]:
            if self._chunker(text).length >= bundle.context_length - 2:
                raise InputError(f"from: '{text[:60]}...' does not fit into a chunk; give shorter prompts")
        self._check_apart()

    def fingerprint(self) -> dict[str, str]:
        """The prompts by number, and the embeddings that they name."""
        others = {f"embedding {name}": self.embeddings[name].provenance.sha256 for name in self._others}
        return {f"prompts {number}": repr(side) for number, side in enumerate(self.sides, 1)} | others

    def describe(self) -> Iterator[str]:
        """Yields the prompts."""
        for side in self.sides:
            yield f"  {side.start} -> {side.end}, beside: {side.neutral}"

    def start(self, learned: Learned, listener: Listener = Listener()) -> None:
        """Makes pictures of all prompts, and finds what these do to them under noise."""
        self._vectors = {name: one.vectors for name, one in (self._others | learned.placed).items()}
        with torch.no_grad():
            plain = CaptionEncoder(self.bundle, self._others, self.config.clip_skip)
            self._pictures = make_pictures(
                self.bundle, self.config, self.sides, self.embeddings, plain, listener
            )
            self._empty = encode_chunks(self.bundle, [Chunk()], {}, self.config.clip_skip).states[0].float()
            self._still, self._change = self._rest(plain)
        size = float(self._pictures.direction.square().mean())
        if self._measured:
            yardstick = self._yardstick = Yardstick(
                self.bundle, self.config, self.sides, self.embeddings, self._measured
            )
            self._shares = even_shares(yardstick.of_directions())
            listener.note(f"Of the direction {self._shares[1]:.2g} times is all that can be seen.")
        self._usual = size * sum(share**2 for share in self._shares.values()) / len(WEIGHTS)

    def batch(self, step: int) -> Sequence[Pick]:
        """Pictures, templates, weights and arithmetics at random."""
        return self._drawn(self.config.generator("picks", step), self.config.batch_size)

    def fixed(self) -> Sequence[Sequence[Pick]]:
        """Examples that stay the same, all weights among them."""
        count = max(self.config.evaluate_on, len(WEIGHTS) * len(ARITHMETICS))
        drawn = self._drawn(self.config.generator("fixed"), count)
        even = [pick._replace(weight=WEIGHTS[place % len(WEIGHTS)]) for place, pick in enumerate(drawn)]
        return split_evenly(even, math.ceil(count / self.config.evaluated_at_once))

    def losses(self, examples: Sequence[Pick]) -> Tensor:
        """(b,) losses; see the module."""
        missing, leak = self._missing(examples)
        return missing + LEAK * leak

    def watch(self, examples: Sequence[Pick]) -> Tensor:
        """(b, 2): the losses, and 1 less what is missing of the direction, whose mean is the share that is there."""
        missing, leak = self._missing(examples)
        return torch.stack([missing + LEAK * leak, 1 - missing], dim=1)

    def facts(self) -> dict[str, str]:
        """How strong each weight is, by dialect, once the verdict has measured it."""
        return {f"lab.slider.{dialect}": strength.to_json() for dialect, strength in self._strengths.items()}

    def verdict(self, found: Mapping[str, float], kept: Sequence[Embedding]) -> str:
        """How much of the direction the vectors have, and which weights look evenly apart in images."""
        told = f"Over weights {WEIGHTS[0]:g} to {WEIGHTS[-1]:g} they do {100 * found['explained']:.0f} % of the way."
        if self._measured:
            self._strengths = {dialect: self._yardstick.of_slider(kept[0], dialect) for dialect in DIALECTS}
        lines = (f"In {dialect}, {strength.describe()}." for dialect, strength in self._strengths.items())
        return " ".join([told, *lines])

    @torch.no_grad()
    def _check_apart(self) -> None:
        """Refuses prompts that are one to the text encoder, as it may take no notice of capitals."""
        encode = CaptionEncoder(self.bundle, self._others, self.config.clip_skip)
        start, end = (encode([side[form] for side in self.sides]).embeds for form in (1, 2))
        if torch.equal(start, end):
            raise InputError("to: the model takes both prompts for the same; give others")

    @property
    def _measured(self) -> int:
        return MEASURED if self.config.measured is None else self.config.measured

    def _missing(self, examples: Sequence[Pick]) -> tuple[Tensor, Tensor]:
        """(b,) shares of the direction that are missing, and (b,) what the vectors change behind their rows."""
        places = [pick.picture for pick in examples]
        pictures, device = self._pictures, self.bundle.device
        embeds, pooled, leak = self._encode(examples)
        time_ids = time_ids_of(self.bundle, len(examples))
        timesteps = pictures.timesteps[places].to(device)
        made = call_unet(
            self.bundle.unet, pictures.noisy[places].to(device), timesteps, embeds, pooled, time_ids
        )
        shares = torch.tensor([self._shares[pick.weight] for pick in examples]).view(-1, 1, 1, 1)
        wanted = (pictures.base[places] + shares * pictures.direction[places]).to(device)
        return (made - wanted).square().mean(dim=(1, 2, 3)) / self._usual, leak

    def _encode(self, examples: Sequence[Pick]) -> tuple[Tensor, Tensor | None, Tensor]:
        """(b, 77, d) prompt embeddings under their weights, pooled ones for SDXL, and (b,) the change of other rows."""
        pairs = [(self._pictures.things[pick.picture], pick.template) for pick in examples]
        chunks = [self._chunker(self._prompts[thing][template]) for thing, template in pairs]
        encoded = encode_chunks(self.bundle, chunks, self._vectors, self.config.clip_skip)
        states, leaks = encoded.states.float(), []
        for place, pair in enumerate(pairs):
            behind = torch.ones(states.shape[1], dtype=torch.bool)
            behind[[0, *self._own_rows(chunks[place])]] = False
            change = states[place, behind] - self._still[pair][behind]
            leaks.append(change.square().sum() / self._change)
        weighted = [
            self._weigh(chunk, states[place], pick)
            for place, (chunk, pick) in enumerate(zip(chunks, examples, strict=True))
        ]
        return torch.stack(weighted), encoded.pooled, torch.stack(leaks)

    def _weigh(self, chunk: Chunk, states: Tensor, pick: Pick) -> Tensor:
        """(77, d): the hidden states of a prompt, with the vectors under their weight."""
        if pick.weight == 1:
            return states
        weighted = Chunk(
            [replace(word, weight=pick.weight) if word.embedding == self._name else word for word in chunk]
        )
        made = weigh_chunks(
            self.bundle, [weighted], states[None].cpu(), self._empty.cpu(), self._vectors, pick.arithmetic,
            self.config.clip_skip,
        )  # fmt: skip
        return made[0].to(states.device)

    def _own_rows(self, chunk: Chunk) -> list[int]:
        return [row for word, rows in chunk.rows() if word.embedding == self._name for row in rows]

    def _rest(self, plain: CaptionEncoder) -> tuple[dict[tuple[int, int], Tensor], float]:
        """What rows are without the vectors, laid out around these, by thing and template; and by how much the prompts'
        own words change rows: the mean sum of squares."""
        still = {}
        for thing, prompts in enumerate(self._prompts):
            for template, prompt in enumerate(prompts):
                states = plain([" ".join(prompt.replace(f"<{self._name}>", "").split())]).embeds
                own = self._own_rows(self._chunker(prompt))
                still[thing, template] = laid_out(states[0].float(), own, 0)
        neutral, end = (plain([side[place] for side in self.sides])[0].float() for place in (0, 2))
        start = plain([side.start for side in self.sides])[0].float()
        changes = (end - neutral).square().sum(dim=(1, 2)) + (start - neutral).square().sum(dim=(1, 2))
        return still, float(changes.mean()) or 1.0

    def _drawn(self, generator: torch.Generator, count: int) -> list[Pick]:
        sizes = PICTURES, len(self._templates), len(WEIGHTS), len(ARITHMETICS)
        columns = (torch.randint(size, (count,), generator=generator).tolist() for size in sizes)
        return [
            Pick(picture, template, WEIGHTS[weight], ARITHMETICS[arithmetic])
            for picture, template, weight, arithmetic in zip(*columns, strict=True)
        ]


def even_shares(strength: Strength) -> dict[float, float]:
    """How much of a direction each of `WEIGHTS` is to be, from what more and more of it does: up to weight 1 even steps
    to saturation, and as much again for as much more. Where more of it does nothing, the weight itself."""
    full = strength.saturation
    if not full:
        return dict(zip(WEIGHTS, WEIGHTS, strict=True))
    return {weight: strength.weight_at(weight) if weight <= 1 else weight * full for weight in WEIGHTS}

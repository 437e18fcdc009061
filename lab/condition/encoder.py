"""Prompts of one bundle into prompt embeddings: read, cut into chunks, encoded, weighted, with an account of it."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from lab.condition.chunks import Chunk, applied_embeddings, cut_notes, fill_chunks, first_chunk, token_spans
from lab.condition.conditioning import Conditioning, Encoding, Part, TokenSpan
from lab.condition.config import TextOptions
from lab.condition.tokens import Tokenizer, Word
from lab.condition.towers import encode_chunks, vectors_for, weigh_chunks, weigh_schedule
from lab.condition.weighting import WEIGHTINGS
from lab.embeddings.library import Sources, collect
from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.prompt.chunk_rules import join_word
from lab.prompt.dialects import find_dialect
from lab.prompt.parse import parse, references_in, resolve
from lab.prompt.syntax import Blend, Reading, Segment, Timeline, Variant

_BATCH = 64
"""Chunks encoded together."""


class _ChunkedText(NamedTuple):
    """A text in chunks: of each term its blend and the chunks of its members, and the chunk that is pooled."""

    terms: list[tuple[Blend, list[list[Chunk]]]]
    pooled: Chunk

    def chunks(self) -> list[Chunk]:
        """All chunks that have to be encoded."""
        return [chunk for _, members in self.terms for member in members for chunk in member] + [self.pooled]


def encode_pairs(
    bundle: Bundle,
    pairs: Sequence[tuple[str | Conditioning, str | Conditioning | None]],
    embeddings: Sources,
    options: TextOptions,
    steps: int,
) -> list[tuple[Conditioning, Conditioning]]:
    """Encodes prompts with their negative prompts, each side as long as its own text.

    Each distinct text is encoded once. A negative of None is SDXL's convention: zeros where the model says so
    (`force_zeros_for_empty_prompt`), else the encoded empty text; "" is always encoded. A side that is encoded
    already (`read_embeds`) is taken as it is.
    """
    encoder = PromptEncoder(bundle, embeddings, options, steps)
    positives = encoder.encode(prompt for prompt, _ in pairs if isinstance(prompt, str))
    negatives = encoder.encode(
        (avoided or "" for _, avoided in pairs if not isinstance(avoided, Conditioning)), negative=True
    )
    result = []
    for prompt, avoided in pairs:
        positive = prompt if isinstance(prompt, Conditioning) else positives[prompt]
        negative = avoided if isinstance(avoided, Conditioning) else negatives[avoided or ""]
        if avoided is None and bundle.force_zeros_for_empty_prompt:
            negative = negative.map(_zeros)
        result.append((positive, negative))
    return result


class PromptEncoder:
    """Encodes prompts for one bundle with one set of embeddings and options, over one number of steps.

    Every distinct text is tokenized once, and every distinct chunk goes through the text encoders once, however
    often it comes.
    """

    def __init__(self, bundle: Bundle, embeddings: Sources, options: TextOptions, steps: int):
        """Takes what to encode for; of `options` neither `embedding` nor `embeddings` is looked at."""
        self._bundle = bundle
        self._embeddings = collect(embeddings)
        self._options = options
        self._dialect = find_dialect(options.dialect)
        self._steps = steps
        self._context = bundle.context_length
        self._clip_skip = options.clip_skip_on(bundle.family)
        self._tokenizer = Tokenizer(
            bundle,
            lambda name: self._embeddings[name].count,
            join_word if options.keep_words else self._dialect.join,
            self._embeddings if options.bare_names else (),
            self._dialect.clean,
        )
        self._vectors: dict[str, dict[str, Tensor]] = {}
        self._encoded: dict[tuple, tuple[Tensor, Tensor | None]] = {}

    def read(self, prompt: str, negative: bool = False) -> tuple[Timeline, ...]:
        """Parses a prompt, or a negative one, and resolves its schedules."""
        references = references_in(prompt, self._embeddings, self._options.dialect)
        return resolve(parse(prompt, self._options.dialect, references, negative), self._steps)

    def chunks(self, variant: Variant) -> list[list[Chunk]]:
        """The chunks of what a prompt says at a time: one list for each of its texts (compel blends several).

        Raises:
            InputError: a weight that is not a finite number, an embedding that does not fit the model or a chunk, or
                syntax that asks for what the lab cannot do.
        """
        return [member for _, members in self._chunk(variant.reading).terms for member in members]

    @torch.no_grad()
    def encode(self, prompts: Iterable[str], negative: bool = False) -> Mapping[str, Conditioning]:
        """Encodes prompts, or negative ones, each distinct one once.

        As in the A1111 web UI, what a schedule switches between has one length, as the empty text's embeddings follow
        the shorter ones; and of what `AND` joins, the last row of the shorter ones is repeated.

        Raises:
            InputError: as `chunks`; a name that no embedding has, a clip skip that leaves no layer, or weights that
                leave no finite embeddings.
        """
        timelines = {prompt: self.read(prompt, negative) for prompt in dict.fromkeys(prompts)}
        variants = dict.fromkeys(
            (variant.text, variant.reading)  # alternations come back
            for parts in timelines.values()
            for timeline in parts
            for variant in timeline.variants
        )
        self._tokenizer.read(
            segment.text for _, reading in variants for segment in reading.segments if segment.kind == "text"
        )
        chunked = {(text, reading): self._chunk(reading) for text, reading in variants}
        self._run([chunk for text in chunked.values() for chunk in text.chunks()])
        with self._bundle.autocast():  # some weightings encode texts again
            made = {key: self._encoding(*key, text) for key, text in chunked.items()}

        def part(timeline: Timeline) -> Part:
            entries = ((variant.until, made[variant.text, variant.reading]) for variant in timeline.variants)
            levelled = self._level(Part(timeline.weight, tuple(entries)))
            return self._weigh_schedule(levelled, timeline, chunked)

        return {
            prompt: Conditioning(prompt, _level_parts([part(timeline) for timeline in parts]))
            for prompt, parts in timelines.items()
        }

    def _level(self, part: Part) -> Part:
        rows = max(len(entry.embeds) for _, entry in part.entries)
        return part.map(lambda entry: _with_embeds(entry, self._pad(entry.embeds, rows)))

    def _weigh_schedule(
        self, part: Part, timeline: Timeline, chunked: Mapping[tuple[str, Reading], _ChunkedText]
    ) -> Part:
        """The part with its texts weighted together, if the weighting does that and there are several."""
        counts: Counter[tuple[str, Reading]] = Counter()
        for variant in timeline.variants:
            counts[variant.text, variant.reading] += variant.entries
        texts = [chunked[key].terms[0][1][0] for key in counts]
        weighting = self._options.weighting_used
        plain = all(word.weight == 1 for chunks in texts for chunk in chunks for word in chunk)
        if len(texts) == 1 or plain or WEIGHTINGS[weighting].over_schedule is None:
            return part
        most = max(map(len, texts))
        filled = [[*chunks, *[Chunk()] * (most - len(chunks))] for chunks in texts]
        states = torch.stack(
            [torch.stack([self._encode_chunk(chunk)[0] for chunk in chunks]) for chunks in filled]
        )
        shares = [count // math.gcd(*counts.values()) for count in counts.values()]
        weighted = iter(weigh_schedule(self._bundle, filled, states, shares, weighting).flatten(1, 2))
        return part.map(lambda entry: replace(entry, embeds=_finite(next(weighted), entry.text)))

    @torch.no_grad()
    def _pad(self, states: Tensor, rows: int) -> Tensor:
        """(rows, d): states (n, d) and, as often as it takes, those of the empty chunk."""
        empty, _ = self._encode_chunk(Chunk())
        return torch.cat([states, *[empty] * ((rows - len(states)) // len(empty))])

    def _chunk(self, reading: Reading) -> _ChunkedText:
        if reading.problems:
            raise InputError(reading.problems[0])
        room = self._context - 2  # for the start and end tokens

        def fill(segments: Sequence[Segment]) -> list[Chunk]:
            reach, keep_words = self._options.comma_backtrack, self._options.keep_words
            return fill_chunks(self._words(segments), room, self._dialect.split, reach, keep_words)

        terms = [(term, [fill(segments) for _, segments in term.members]) for term in reading.terms]
        if reading.pooled is None:
            return _ChunkedText(terms, terms[0][1][0][0])
        return _ChunkedText(terms, first_chunk(self._words(reading.pooled)[0], room))

    def _words(self, segments: Sequence[Segment]) -> list[list[Word]]:
        """The words of segments, checked, with their embeddings' vectors at hand."""
        stretches = self._tokenizer.words(segments)
        for word in (word for words in stretches for word in words):
            if not math.isfinite(word.weight):
                raise InputError(
                    f"the weight of '{word.text}' in the prompt is {word.weight}; use a smaller one"
                )
            if word.embedding is not None and word.embedding not in self._vectors:
                embedding = self._embeddings[word.embedding]
                self._vectors[word.embedding] = vectors_for(self._bundle, embedding)
        return stretches

    def _run(self, chunks: Sequence[Chunk]) -> None:
        """Encodes the chunks that are new: states (context, d) and pooled (p,) or None for each."""
        new = {chunk.seen: chunk for chunk in chunks}
        keys = [key for key in new if key not in self._encoded]
        for start in range(0, len(keys), _BATCH):
            batch = keys[start : start + _BATCH]
            with self._bundle.autocast():
                encoded = encode_chunks(
                    self._bundle, [new[key] for key in batch], self._vectors, self._clip_skip
                )
            states = encoded.states.float().cpu()
            pooled = [None] * len(batch) if encoded.pooled is None else encoded.pooled.float().cpu()
            self._encoded.update(zip(batch, zip(states, pooled, strict=True), strict=True))

    def _encode_chunk(self, chunk: Chunk) -> tuple[Tensor, Tensor | None]:
        if chunk.seen not in self._encoded:
            self._run([chunk])
        return self._encoded[chunk.seen]

    def _encoding(self, source: str, reading: Reading, text: _ChunkedText) -> Encoding:
        embeds, spans, rows = [], list[TokenSpan](), 0
        for term, members in text.terms:
            states = self._blend(term, members)
            embeds.append(states)
            for member in members:
                spans += token_spans(member, self._context, rows)
            rows += len(states)
        joined = torch.cat(embeds)
        _finite(joined, source)
        _, pooled = self._encode_chunk(text.pooled)
        applied = applied_embeddings(spans, self._embeddings)
        cuts = (note for _, members in text.terms for member in members for note in cut_notes(member))
        return Encoding(source, joined, pooled, tuple(spans), applied, (*reading.notes, *cuts))

    def _blend(self, term: Blend, members: Sequence[Sequence[Chunk]]) -> Tensor:
        """(chunks * context, d): a compel blend under its weight, or the one text that there is."""
        encoded = [self._weigh(chunks) for chunks in members]
        states = encoded[0]
        if len(encoded) > 1:
            from lab.condition.compel import blend_by_compel  # the compel library takes a moment to import

            rows = max(map(len, encoded))
            padded = [self._pad(member, rows) for member in encoded]
            states = blend_by_compel(padded, [share for share, _ in term.members], term.normalized)
        if term.weight != 1:
            empty = self._pad(states[:0], len(states))
            states = empty + (states - empty) * term.weight
        return states

    def _weigh(self, chunks: Sequence[Chunk]) -> Tensor:
        """(chunks * context, d): the hidden states of a text under the weights of its words."""
        states = torch.stack([self._encode_chunk(chunk)[0] for chunk in chunks])
        if any(word.weight != 1 for chunk in chunks for word in chunk):
            empty, _ = self._encode_chunk(Chunk())
            weighting = self._options.weighting_used
            states = weigh_chunks(
                self._bundle, chunks, states, empty, self._vectors, weighting, self._clip_skip
            )
        return states.flatten(0, 1)


def _finite(embeds: Tensor, source: str) -> Tensor:
    if not embeds.sum().isfinite():
        raise InputError(f"'{source}': its weights leave no finite embeddings; use weights nearer to 1")
    return embeds


def _level_parts(parts: Sequence[Part]) -> tuple[Part, ...]:
    rows = max(len(part.entries[0][1].embeds) for part in parts)

    def repeat_last(entry: Encoding) -> Encoding:
        last = entry.embeds[-1:].expand(rows - len(entry.embeds), -1)
        return _with_embeds(entry, torch.cat([entry.embeds, last]))

    return tuple(part.map(repeat_last) for part in parts)


def _with_embeds(entry: Encoding, embeds: Tensor) -> Encoding:
    return entry if len(embeds) == len(entry.embeds) else replace(entry, embeds=embeds)


def _zeros(encoding: Encoding) -> Encoding:
    pooled = None if encoding.pooled is None else torch.zeros_like(encoding.pooled)
    return replace(encoding, embeds=torch.zeros_like(encoding.embeds), pooled=pooled)

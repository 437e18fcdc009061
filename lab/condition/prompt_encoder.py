"""Prompts in, `Conditioning` out: read, cut into chunks, encoded, weighted, accounted for."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lab.condition.chunks import Chunk, ChunkedText, fill_chunks, first_chunk
from lab.condition.conditioning import (
    Conditioning,
    Encoding,
    Part,
    TokenSpan,
    applied_embeddings,
    check_finite,
    cut_notes,
    level_parts,
    norm_notes,
    token_spans,
)
from lab.condition.config import TextOptions
from lab.condition.learned_places import use_notes, with_layers, with_output_rows
from lab.condition.prompt_parts import joined_negated, without_part
from lab.condition.tokens import Tokenizer
from lab.condition.towers import ChunkEncoder, weigh_schedule
from lab.condition.weighting import WEIGHTINGS
from lab.embeddings.embedding import Embedding
from lab.embeddings.library import Sources, collect
from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.prompt.chunk_rules import join_word
from lab.prompt.dialects import find_dialect
from lab.prompt.parse import parse, references_in, resolve
from lab.prompt.syntax import Blend, Reading, Segment, Timeline, Variant
from lab.text import check_prompt


class PromptEncoder:
    """Encodes prompts for one bundle with one set of embeddings and options, over one number of steps.

    Every distinct text is tokenized once, and every distinct chunk goes through the text encoders once, however
    often it comes.
    """

    def __init__(
        self, bundle: Bundle, embeddings: Sources, options: TextOptions, steps: int, negates: bool = False
    ):
        """Takes what to encode for; of `options` neither `embedding` nor `embeddings` is looked at.

        Args:
            negates: Takes words of negative weight out of their texts and encodes them apart (`Encoding.negated`),
                instead of multiplying by these weights as the dialect's tool does.
        """
        self._negates = negates
        self._bundle = bundle
        self._embeddings = collect(embeddings)
        self._options = options
        self._dialect = find_dialect(options.dialect)
        self._steps = steps
        self._context = bundle.context_length
        self._towers = ChunkEncoder(bundle, self._embeddings, options.clip_skip_on(bundle.family))
        self._tokenizer = Tokenizer(
            bundle,
            self._towers.count_vectors,
            join_word if options.keep_words else self._dialect.join,
            self._embeddings if options.bare_names else (),
            self._dialect.clean,
            self._dialect.pad_is_text,
        )

    def read(self, prompt: str, negative: bool = False) -> tuple[Timeline, ...]:
        """Parses a prompt, or a negative one, and resolves its schedules: a timeline for each part that `AND` joins.

        Raises:
            InputError: a name that no embedding has.
        """
        references = references_in(prompt, self._embeddings, self._options.dialect)
        return resolve(parse(prompt, self._options.dialect, references, negative), self._steps)

    def chunks(self, variant: Variant) -> list[list[Chunk]]:
        """The chunks of what a prompt says at a time: one list for each of its texts (compel blends several).

        Raises:
            InputError: a weight that is not a finite number, an embedding that does not fit the model or a chunk, or
                syntax that asks for what the lab cannot do.
        """
        return [member for _, members in self._chunk([variant.reading])[0].terms for member in members]

    @torch.no_grad()
    def encode(self, prompts: Iterable[str], negative: bool = False) -> Mapping[str, Conditioning]:
        """Encodes prompts, or negative ones, each distinct one once.

        As in the A1111 web UI, what a schedule switches between has one length, as the empty text's embeddings follow
        the shorter ones; and of what `AND` joins, the last row of the shorter ones is repeated.

        Raises:
            InputError: as `chunks`; a name that no embedding has, a clip skip that leaves no layer, or weights that
                leave no finite embeddings.
        """
        timelines = {
            prompt: self.read(prompt, negative) for prompt in dict.fromkeys(map(check_prompt, prompts))
        }
        variants = dict.fromkeys(
            (variant.text, variant.reading)  # alternations come back
            for parts in timelines.values()
            for timeline in parts
            for variant in timeline.variants
        )
        chunked = dict(zip(variants, self._chunk([reading for _, reading in variants]), strict=True))
        self._towers.encode([chunk for text in chunked.values() for chunk in text.chunks()])
        with self._bundle.autocast():  # some weightings encode texts again
            made = {key: self._encoding(*key, text) for key, text in chunked.items()}

        def part(timeline: Timeline) -> Part:
            entries = ((variant.until, made[variant.text, variant.reading]) for variant in timeline.variants)
            levelled = self._level(Part(timeline.weight, tuple(entries)))
            return self._weigh_schedule(levelled, timeline, chunked)

        encoded = {
            prompt: Conditioning(prompt, level_parts([part(timeline) for timeline in parts]))
            for prompt, parts in timelines.items()
        }
        if not negative:
            encoded = {prompt: self.knocked_out(one) for prompt, one in encoded.items()}
        return {prompt: self._with_layers(one, negative) for prompt, one in encoded.items()}

    def _with_layers(self, whole: Conditioning, negative: bool) -> Conditioning:
        def again(embeddings: Mapping[str, Embedding]) -> Conditioning:
            other = PromptEncoder(self._bundle, embeddings, self._options, self._steps, self._negates)
            return other.encode([whole.prompt], negative)[whole.prompt]

        return with_layers(whole, self._embeddings, again)

    def knocked_out(self, whole: Conditioning) -> Conditioning:
        """A prompt without the part that the options knock out; itself where they name none.

        Raises:
            InputError: it has no such part.
        """
        part = self._options.knock_out
        return whole if part is None else without_part(whole, part, *self._towers.states(Chunk()))

    def _level(self, part: Part) -> Part:
        rows = max(len(entry.embeds) for _, entry in part.entries)
        return part.map(lambda entry: entry.with_embeds(self._pad(entry.embeds, rows)))

    def _weigh_schedule(
        self, part: Part, timeline: Timeline, chunked: Mapping[tuple[str, Reading], ChunkedText]
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
            [torch.stack([self._towers.states(chunk)[0] for chunk in chunks]) for chunks in filled]
        )
        shares = [count // math.gcd(*counts.values()) for count in counts.values()]
        together = weigh_schedule(self._bundle, filled, states, shares, weighting)
        pairs = zip(filled, together, strict=True)
        weighted = (with_output_rows(self._bundle, *pair, self._embeddings).flatten(0, 1) for pair in pairs)
        return part.map(lambda entry: replace(entry, embeds=check_finite(next(weighted), entry.text)))

    @torch.no_grad()
    def _pad(self, states: Tensor, rows: int) -> Tensor:
        """(rows, d): states (n, d) and, as often as it takes, those of the empty chunk."""
        if rows == len(states):  # the empty chunk need not be encoded
            return states
        empty, _ = self._towers.states(Chunk())
        return torch.cat([states, *[empty] * ((rows - len(states)) // len(empty))])

    def _chunk(self, readings: Sequence[Reading]) -> list[ChunkedText]:
        """The chunks of readings, whose texts are tokenized together."""
        problem = next((problem for reading in readings for problem in reading.problems), None)
        if problem:
            raise InputError(problem)
        segments = (segment for reading in readings for segment in reading.segments)
        self._tokenizer.read(segment.text for segment in segments if segment.kind == "text")
        room = self._context - 2  # for the start and end tokens
        reach, keep_words = self._options.comma_backtrack, self._options.keep_words

        def fill(segments: Sequence[Segment]) -> list[Chunk]:
            words = self._tokenizer.words(segments)
            return fill_chunks(words, room, self._dialect.split, reach, keep_words)

        chunked = []
        for whole in readings:
            reading, negated = whole.without_negated() if self._negates else (whole, ())
            terms = [(term, [fill(segments) for _, segments in term.members]) for term in reading.terms]
            pooled = terms[0][1][0][0]
            if reading.pooled is not None:
                pooled = first_chunk(self._tokenizer.words(reading.pooled)[0], room)
            chunked.append(ChunkedText(terms, pooled, [fill(each.segments) for each in negated]))
        return chunked

    def _encoding(self, source: str, reading: Reading, text: ChunkedText) -> Encoding:
        embeds, spans, rows = [], list[TokenSpan](), 0
        for term, members in text.terms:
            states = self._blend(term, members)
            embeds.append(states)
            for member in members:
                spans += token_spans(member, self._context, rows)
            rows += len(states)
        joined = torch.cat(embeds)
        applied, negated = applied_embeddings(spans, self._embeddings), self._negated(source, text.negated)
        used = applied if negated is None else applied + negated.applied
        apart = list(norm_notes(used, self._embeddings, self._bundle.towers))
        check_finite(joined, source, apart)
        _, pooled = self._towers.states(text.pooled)
        notes = [*reading.notes, *apart, *use_notes(used, self._embeddings)]
        for chunks in (member for _, members in text.terms for member in members):
            if self._dialect.long_note and len(chunks) > 1:
                notes.append(self._dialect.long_note)
            notes += cut_notes(chunks)
        return Encoding(source, joined, pooled, tuple(spans), applied, tuple(dict.fromkeys(notes)), negated)

    def _negated(self, source: str, texts: Sequence[Sequence[Chunk]]) -> Encoding | None:
        """What is to be avoided of a prompt, whose texts are apart; None if there is none."""
        made = []
        for chunks in texts:
            states = self._towers.weighted(chunks, self._options.weighting_used)
            made.append(Encoding(source, states, spans=tuple(token_spans(chunks, self._context))))
        joined = joined_negated(made, self._context) if made else None
        return joined and replace(joined, applied=applied_embeddings(joined.spans, self._embeddings))

    def _blend(self, term: Blend, members: Sequence[Sequence[Chunk]]) -> Tensor:
        """(chunks * context, d): a compel blend under its weight, or the one text that there is."""
        encoded = [self._towers.weighted(chunks, self._options.weighting_used) for chunks in members]
        states = encoded[0]
        if len(encoded) > 1:
            from lab.condition.compel_weighting import (
                blend_by_compel,  # the compel library takes a moment to import
            )

            rows = max(map(len, encoded))
            padded = [self._pad(member, rows) for member in encoded]
            states = blend_by_compel(padded, [share for share, _ in term.members], term.normalized)
        if term.weight != 1:
            empty = self._pad(states[:0], len(states))
            states = empty + (states - empty) * term.weight
        return states

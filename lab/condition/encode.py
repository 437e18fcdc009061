"""Prompts and learned embeddings in, `Conditioning` out."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor

from lab.condition.chunks import Chunk, applied_embeddings, fill_chunks, first_chunk, token_spans
from lab.condition.conditioning import Conditioning, Encoding, Part, TokenSpan
from lab.condition.config import TextOptions
from lab.condition.tokens import Tokenizer, Word
from lab.condition.towers import encode_chunks, vectors_for, weigh_chunks
from lab.embeddings.library import Sources, collect
from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.prompt.dialects import find_dialect
from lab.prompt.parse import parse, resolve
from lab.prompt.references import find_references
from lab.prompt.syntax import Blend, Reading, Segment, Timeline, Variant

_BATCH = 64
"""Chunks encoded together."""


@overload
def encode(
    bundle: Bundle,
    prompt: str,
    config: TextOptions | None = None,
    *,
    embeddings: Sources = (),
    steps: int = 20,
    **settings: Any,
) -> Conditioning: ...
@overload
def encode(
    bundle: Bundle,
    prompt: Sequence[str],
    config: TextOptions | None = None,
    *,
    embeddings: Sources = (),
    steps: int = 20,
    **settings: Any,
) -> list[Conditioning]: ...
def encode(
    bundle: Bundle,
    prompt: str | Sequence[str],
    config: TextOptions | None = None,
    *,
    embeddings: Sources = (),
    steps: int = 20,
    **settings: Any,
) -> Conditioning | list[Conditioning]:
    """Encodes one prompt, or several at once, which is faster.

    Args:
        embeddings: What `<name>` and `embedding:name` in the prompts may refer to: `Embedding` values, files,
            folders, or a mapping from names. What no prompt names is not read from a folder.
        steps: Denoising steps, over which schedules are resolved.
        settings: Fields of `TextOptions`, on top of `config`: `dialect` ("a1111"), `weighting` (the dialect's own),
            `clip_skip` (0 to 11 layers left out at the text encoder's end; A1111 shows one more), `bare_names`,
            `comma_backtrack`.

    Returns:
        One `Conditioning` for a text, a list for a list.

    Raises:
        InputError: a name that no embedding has, an embedding made for another family, a clip skip or a weight
            out of range, an unknown option.
    """
    if config is not None and not isinstance(config, TextOptions):
        raise InputError(
            f"config: expected TextOptions, not {type(config).__name__}; embeddings go to embeddings="
        )
    given = (
        config.model_dump(include=config.model_fields_set & TextOptions.model_fields.keys()) if config else {}
    )
    options = TextOptions.build(given | settings)
    library = collect(options.embedding, options.embeddings, embeddings)
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    made = PromptEncoder(bundle, library, options, steps).encode(prompts)
    return made[prompt] if isinstance(prompt, str) else [made[text] for text in prompts]


def encode_pairs(
    bundle: Bundle,
    pairs: Sequence[tuple[str | Conditioning, str | Conditioning | None]],
    embeddings: Sources,
    options: TextOptions,
    steps: int,
) -> list[tuple[Conditioning, Conditioning]]:
    """Encodes prompts with their negative prompts, both sides of a pair padded to the same length.

    Each distinct text is encoded once. Padding is chunks of the encoded empty text and depends on the pair alone. A
    negative of None is SDXL's convention: zeros where the model says so (`force_zeros_for_empty_prompt`), else the
    encoded empty text; "" is always encoded. A side that is encoded already (`read_embeds`) is taken as it is.
    """
    encoder = PromptEncoder(bundle, embeddings, options, steps)
    texts = [text or "" for pair in pairs for text in pair if not isinstance(text, Conditioning)]
    made = encoder.encode(texts)
    result = []
    for pair in pairs:
        sides = [side if isinstance(side, Conditioning) else made[side or ""] for side in pair]
        rows = max(len(entry.embeds) for side in sides for entry in side.entries)
        positive, negative = (encoder.pad(side, rows) for side in sides)
        if pair[1] is None and bundle.force_zeros_for_empty_prompt:
            negative = negative.map(_zeros)
        result.append((positive, negative))
    return result


def _zeros(encoding: Encoding) -> Encoding:
    pooled = None if encoding.pooled is None else torch.zeros_like(encoding.pooled)
    return replace(encoding, embeds=torch.zeros_like(encoding.embeds), pooled=pooled)


class _ChunkedText(NamedTuple):
    """A text in chunks: of each term its blend and the chunks of its members, and the chunk that is pooled."""

    terms: list[tuple[Blend, list[list[Chunk]]]]
    pooled: Chunk

    def chunks(self) -> list[Chunk]:
        """All chunks that have to be encoded."""
        return [chunk for _, members in self.terms for member in members for chunk in member] + [self.pooled]


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
        self._tokenizer = Tokenizer(
            bundle,
            lambda name: self._embeddings[name].count,
            self._dialect.join,
            self._embeddings if options.bare_names else (),
        )
        self._vectors: dict[str, dict[str, Tensor]] = {}
        self._encoded: dict[tuple, tuple[Tensor, Tensor | None]] = {}

    def read(self, prompt: str) -> tuple[Timeline, ...]:
        """Parses a prompt and resolves its schedules."""
        references = find_references(prompt, self._embeddings)
        return resolve(parse(prompt, self._options.dialect, references), self._steps)

    def chunks(self, variant: Variant) -> list[list[Chunk]]:
        """The chunks of what a prompt says at a time: one list for each of its texts (compel blends several).

        Raises:
            InputError: a weight that is not a finite number, an embedding that does not fit the model or a chunk, or
                syntax that asks for what the lab cannot do.
        """
        return [member for _, members in self._chunk(variant.reading).terms for member in members]

    @torch.no_grad()
    def encode(self, prompts: Iterable[str]) -> Mapping[str, Conditioning]:
        """Encodes prompts, each distinct one once and without padding.

        Raises:
            InputError: as `chunks`; a name that no embedding has, a clip skip that leaves no layer, or weights that
                leave no finite embeddings.
        """
        timelines = {prompt: self.read(prompt) for prompt in dict.fromkeys(prompts)}
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
            return Part(timeline.weight, tuple(entries))

        return {prompt: Conditioning(prompt, tuple(map(part, parts))) for prompt, parts in timelines.items()}

    def pad(self, conditioning: Conditioning, rows: int) -> Conditioning:
        """A conditioning whose embeddings all have `rows` rows, the empty text's after their own."""

        def padded(encoding: Encoding) -> Encoding:
            if len(encoding.embeds) == rows:
                return encoding
            return replace(encoding, embeds=self._pad(encoding.embeds, rows))

        return conditioning.map(padded)

    @torch.no_grad()
    def _pad(self, states: Tensor, rows: int) -> Tensor:
        """(rows, d): states (n, d) and, as often as it takes, those of the empty chunk."""
        empty, _ = self._encode_chunk(Chunk())
        return torch.cat([states, *[empty] * ((rows - len(states)) // len(empty))])

    def _chunk(self, reading: Reading) -> _ChunkedText:
        if reading.problems:
            raise InputError(reading.problems[0])
        room = self._context - 2  # for the start and end tokens
        rule, reach = self._dialect.split, self._options.comma_backtrack
        terms = [
            (term, [fill_chunks(self._words(segments), room, rule, reach) for _, segments in term.members])
            for term in reading.terms
        ]
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
                    self._bundle, [new[key] for key in batch], self._vectors, self._options.clip_skip
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
        if not joined.sum().isfinite():
            raise InputError(f"'{source}': its weights leave no finite embeddings; use weights nearer to 1")
        _, pooled = self._encode_chunk(text.pooled)
        applied = applied_embeddings(spans, self._embeddings)
        return Encoding(source, joined, pooled, tuple(spans), applied, reading.notes)

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
            clip_skip = self._options.clip_skip
            states = weigh_chunks(self._bundle, chunks, states, empty, self._vectors, weighting, clip_skip)
        return states.flatten(0, 1)

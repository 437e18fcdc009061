"""Readings of prompts into encodings: every distinct chunk through the text encoders once, then the weights."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lab.condition.chunks import Chunk, applied_embeddings, first_chunk, lay_out, split_rule, token_spans
from lab.condition.conditioning import Encoding, TokenSpan
from lab.condition.config import TextOptions
from lab.condition.tokens import BareNames, Break, Piece, Tokenizer, within_run, within_word
from lab.condition.towers import encode_chunks
from lab.condition.vectors import vectors_for
from lab.condition.weighting import OWN_WEIGHTING, weigh_chunks
from lab.embeddings.embedding import Embedding
from lab.errors import InputError
from lab.models.bundle import Bundle
from lab.prompt.syntax import Blend, Segment, Variant

_BATCH = 64
"""Chunks encoded together."""


class _Counts(dict[str, int]):
    """The number of vectors of each embedding; those in folders are read when they are first asked for."""

    def __init__(self, embeddings: Mapping[str, Embedding]):
        super().__init__()
        self._embeddings = embeddings

    def __missing__(self, name: str) -> int:
        return self.setdefault(name, self._embeddings[name].count)


class _Rows(NamedTuple):
    """An encoded chunk: (context, d) for all text encoders side by side, and the pooled (p,) or None."""

    states: Tensor
    pooled: Tensor | None


class TextEncoder:
    """Encodes texts for one bundle with one set of embeddings and options; every distinct chunk once."""

    def __init__(self, bundle: Bundle, embeddings: Mapping[str, Embedding], options: TextOptions):
        self._bundle = bundle
        self._embeddings = embeddings
        self._options = options
        self._weighting = options.weighting or OWN_WEIGHTING[options.dialect]
        self._context = bundle.context_length
        self._room = self._context - 2  # for the start and end tokens
        self._split = split_rule(options.dialect, options.comma_backtrack)
        bare = BareNames(bundle.towers[0].tokenizer, embeddings) if options.bare_names else None
        glue = within_run if options.dialect == "comfy" else within_word
        self._tokenizer = Tokenizer(bundle, _Counts(embeddings), glue, bare)
        self._vectors: dict[str, dict[str, Tensor]] = {}
        self._rows: dict[tuple, _Rows] = {}

    @torch.no_grad()
    def encode(self, variants: Sequence[Variant]) -> list[Encoding]:
        """Encodes what prompts say, without padding: (chunks * context, d) each.

        Raises:
            InputError: a weight that is not a finite number, an embedding that does not fit the model, a clip skip
                that leaves no layer, or syntax that asks for what the lab cannot do.
        """
        self._tokenizer.read(
            [segment.text for variant in variants for segment in variant.segments if segment.kind == "text"]
        )
        distinct = {
            (variant.text, variant.reading): variant for variant in variants
        }  # alternations come back
        laid_out = {key: self.lay_out(variant) for key, variant in distinct.items()}
        self._run([chunk for text in laid_out.values() for chunk in text.chunks()])
        with self._bundle.autocast():  # some weightings encode texts again
            made = {key: self._encoding(key[0], text) for key, text in laid_out.items()}
        return [made[variant.text, variant.reading] for variant in variants]

    @torch.no_grad()
    def empty(self) -> Encoding:
        """The encoded empty text, with which shorter texts are padded."""
        return Encoding("", *self._rows_of(()))

    def lay_out(self, variant: Variant) -> "LaidOut":
        """Lays a text out in chunks without encoding it."""
        reading = variant.reading
        if reading.problems:
            raise InputError(reading.problems[0])
        blends = reading.blends or (Blend(1.0, ((1.0, reading.segments),)),)
        terms = [
            Term(
                blend,
                [lay_out(self._pieces(segments), self._room, self._split) for _, segments in blend.members],
            )
            for blend in blends
        ]
        pooled = None if reading.pooled is None else first_chunk(self._pieces(reading.pooled), self._room)
        return LaidOut(terms, pooled)

    def _pieces(self, segments: Sequence[Segment]) -> list[Piece | Break]:
        pieces = self._tokenizer.pieces(segments)
        for piece in pieces:
            if isinstance(piece, Break):
                continue
            if not math.isfinite(piece.weight):
                raise InputError(
                    f"the weight of '{piece.text}' in the prompt is {piece.weight}; use a smaller one"
                )
            if piece.embedding is not None and piece.embedding not in self._vectors:
                found = self._embeddings[piece.embedding]
                self._vectors[piece.embedding] = vectors_for(self._bundle, found)
        return pieces

    def _run(self, chunks: Sequence[Chunk]) -> None:
        """Encodes the chunks that are new."""
        new = {key: chunk for chunk in chunks if (key := _key(chunk)) not in self._rows}
        keys = list(new)
        for start in range(0, len(keys), _BATCH):
            batch = keys[start : start + _BATCH]
            with self._bundle.autocast():
                hidden = encode_chunks(
                    self._bundle, [new[key] for key in batch], self._vectors, self._options.clip_skip
                )
            states = hidden.joined.float().cpu()
            pooled = [None] * len(batch) if hidden.pooled is None else hidden.pooled.float().cpu()
            for key, rows in zip(batch, zip(states, pooled, strict=True), strict=True):
                self._rows[key] = _Rows(*rows)

    def _rows_of(self, chunk: Chunk) -> _Rows:
        self._run([chunk])
        return self._rows[_key(chunk)]

    def _encoding(self, source: str, text: "LaidOut") -> Encoding:
        embeds, spans, rows = [], list[TokenSpan](), 0
        for term in text.terms:
            states = self._blended(term)
            embeds.append(states)
            for member in term.members:
                spans += token_spans(member, self._context, rows)
            rows += len(states)
        joined = torch.cat(embeds)
        if not joined.sum().isfinite():
            raise InputError(f"'{source}': its weights leave no finite embeddings; use weights nearer to 1")
        first = text.terms[0].members[0][0] if text.pooled is None else text.pooled
        return Encoding(
            source,
            joined,
            self._rows_of(first).pooled,
            tuple(spans),
            applied_embeddings(spans, self._embeddings),
        )

    def _blended(self, term: "Term") -> Tensor:
        """(chunks * context, d): a compel blend under its weight, or the one text that there is."""
        members = [self._weighted(chunks) for chunks in term.members]
        states = members[0]
        if len(members) > 1:
            from lab.condition.compel import blend  # the compel library takes a moment to import

            length = max(len(member) for member in members)
            padded = [pad(member, self._rows_of(()).states, length) for member in members]
            states = blend(padded, [share for share, _ in term.blend.members], term.blend.normalized)
        if term.blend.weight != 1:
            nothing = pad(states[:0], self._rows_of(()).states, len(states))
            states = nothing + (states - nothing) * term.blend.weight
        return states

    def _weighted(self, chunks: Sequence[Chunk]) -> Tensor:
        states = torch.stack([self._rows[_key(chunk)].states for chunk in chunks])
        if any(piece.weight != 1 for chunk in chunks for piece in chunk):
            empty = self._rows_of(()).states
            options = self._weighting, self._options.clip_skip
            states = weigh_chunks(self._bundle, chunks, states, empty, self._vectors, *options)
        return states.flatten(0, 1)


def pad(states: Tensor, empty: Tensor, rows: int) -> Tensor:
    """(rows, d): `states` (n, d) with the empty chunk (context, d) after it as often as it takes."""
    return torch.cat([states, *[empty] * ((rows - len(states)) // len(empty))])


def _key(chunk: Chunk) -> tuple:
    """What of a chunk the text encoders see."""
    return tuple((piece.ids, piece.embedding) for piece in chunk)


class Term(NamedTuple):
    """A term of a text: how its members blend, and each member in chunks."""

    blend: Blend
    members: list[list[Chunk]]


class LaidOut(NamedTuple):
    """A text in chunks; `pooled` is the chunk to pool where that is not the first."""

    terms: list[Term]
    pooled: Chunk | None

    def chunks(self) -> Iterator[Chunk]:
        """All chunks that have to be encoded."""
        for term in self.terms:
            for member in term.members:
                yield from member
        if self.pooled is not None:
            yield self.pooled

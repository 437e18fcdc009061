"""What text becomes: prompt embeddings with a full account of what each row stands for."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from itertools import pairwise, product
from typing import TYPE_CHECKING, Literal

from lab.embeddings.embedding import norms_apart
from lab.errors import InputError
from lab.text import shortened

if TYPE_CHECKING:
    from torch import Tensor

    from lab.condition.chunks import Chunk
    from lab.embeddings.embedding import Embedding
    from lab.models.bundle import TextTower


@dataclass(frozen=True)
class TokenSpan:
    """A run of rows of the prompt embeddings and the piece of the prompt it came from.

    Attributes:
        text: The word as the prompt has it, or the embedding's name.
        start, end: Rows `start:end` of `Encoding.embeds`, counted over all chunks.
        source: Characters `source[0]:source[1]` of the prompt as it was given.
        weight: The weight in force, 1.0 for none.
        embedding: The name of the learned embedding that fills the rows, or None for words.
        skipped: How many of its tokens or vectors stand in the chunk before, where the dialect cuts words; 0 for the
            beginning of a word.
    """

    text: str
    start: int
    end: int
    source: tuple[int, int]
    weight: float = 1.0
    embedding: str | None = None
    skipped: int = 0


@dataclass(frozen=True)
class AppliedEmbedding:
    """One use of a learned embedding in a prompt, as every image's record lists it.

    Attributes:
        vectors: How many rows of the prompt embeddings it fills.
        positions: Which rows, counted over all chunks.
        weight: The weight in force, 1.0 for none.
        sha256: Of its file, in hexadecimal.
    """

    name: str
    vectors: int
    positions: tuple[int, ...]
    weight: float
    sha256: str


@dataclass(frozen=True, eq=False)
class Encoding:
    """One text, encoded: constant over all denoising steps. Equal to itself alone, and so a key of dictionaries.

    Attributes:
        text: The text that was encoded, after schedules were resolved, with its weight syntax.
        embeds: (n, d) float32, on the CPU as an encoder of prompts gives it, on the model's device where a run learns
            it, for the U-Net takes either; n is a multiple of the encoder's context length
            (77 for Stable Diffusion), d the width (both encoders' side by side for SDXL).
        pooled: (p,) float32 from the first chunk of SDXL's second encoder, or None.
        spans: What the rows stand for; start, end and padding tokens have no span.
        applied: The learned embeddings used.
        notes: What a person should know about how the text was read, one line each.
        negated: The words of negative weight, which are in none of the above, where they are to be avoided: their rows
            and those of the end tokens behind them, spans counted in these. None where there are none.
        layers: Other embeds for each of `XTI_LAYERS`, where an embedding has other vectors for each of them.
    """

    text: str
    embeds: "Tensor"
    pooled: "Tensor | None" = None
    spans: tuple[TokenSpan, ...] = ()
    applied: tuple[AppliedEmbedding, ...] = ()
    notes: tuple[str, ...] = ()
    negated: "Encoding | None" = None
    layers: "Mapping[str, Tensor]" = field(default_factory=dict)

    def zeroed(self) -> "Encoding":
        """The same text with zeros for its states, as SDXL takes an empty negative prompt."""
        pooled = None if self.pooled is None else self.pooled * 0
        return replace(self, embeds=self.embeds * 0, pooled=pooled)

    def with_embeds(self, embeds: "Tensor") -> "Encoding":
        """The same with other embeds of its own length or more; itself where nothing is added."""
        return self if len(embeds) == len(self.embeds) else replace(self, embeds=embeds)


@dataclass(frozen=True)
class Part:
    """One member of a composition (`AND`): a weight, and what is in force until which step.

    Steps are calls of the U-Net, as in the A1111 web UI: Heun makes two a step, image-to-image counts from its first.

    Attributes:
        weight: Multiplies this part's guidance term.
        entries: (until, encoding) in order, the last until being the number of steps. As in the A1111 web UI, whose
            sampler counts steps from 0 and compares them with ends that its parser counts from 1, step `until` itself
            still belongs to the entry: `[a:b:3]` is a for four steps.
    """

    weight: float
    entries: tuple[tuple[int, Encoding], ...]

    def map(self, change: Callable[[Encoding], Encoding]) -> "Part":
        """The same steps with every encoding changed; one that comes back is changed once."""
        changed = {entry: change(entry) for entry in dict.fromkeys(entry for _, entry in self.entries)}
        return replace(self, entries=tuple((until, changed[entry]) for until, entry in self.entries))

    def at(self, step: int) -> Encoding:
        """The encoding in force at a denoising step, counted from 0."""
        for until, encoding in self.entries:
            if step <= until:
                return encoding
        return self.entries[-1][1]


@dataclass(frozen=True)
class Conditioning:
    """A prompt, ready for the denoising loop. A plain prompt has one part with one entry."""

    prompt: str
    parts: tuple[Part, ...]

    @property
    def first(self) -> Encoding:
        """The encoding of the first part at the first step: all there is of a plain prompt."""
        return self.parts[0].entries[0][1]

    @property
    def entries(self) -> Iterator[Encoding]:
        """Every encoding in force at some step, part by part; those of alternations come back."""
        return (entry for part in self.parts for _, entry in part.entries)

    @property
    def embeds(self) -> "Tensor":
        """(n, d) float32: the prompt embeddings of the first part's first entry."""
        return self.first.embeds

    @property
    def pooled(self) -> "Tensor | None":
        """(p,) float32 or None: the pooled embedding of the first part's first entry."""
        return self.first.pooled

    @property
    def spans(self) -> tuple[TokenSpan, ...]:
        """The token spans of the first part's first entry."""
        return self.first.spans

    @property
    def applied(self) -> tuple[AppliedEmbedding, ...]:
        """Every use of an embedding in any part at any step, each listed once."""
        entries = [one for entry in self.entries for one in (entry, entry.negated) if one]
        return tuple(dict.fromkeys(use for entry in entries for use in entry.applied))

    def map(self, change: Callable[[Encoding], Encoding]) -> "Conditioning":
        """The same parts and steps with every encoding changed."""
        return replace(self, parts=tuple(part.map(change) for part in self.parts))

    def _repr_html_(self) -> str:
        """For a notebook: what the rows of the prompt embeddings stand for, a table for each text."""
        return "".join(_html_table(entry) for entry in dict.fromkeys(self.entries))


def level_parts(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts of a composition at the length of the longest: the last row of the shorter ones is repeated."""
    rows = max(len(part.entries[0][1].embeds) for part in parts)

    def repeat_last(entry: Encoding) -> Encoding:
        own = len(entry.embeds)
        return entry if own == rows else entry.with_embeds(entry.embeds[[*range(own), *[-1] * (rows - own)]])

    return tuple(part.map(repeat_last) for part in parts)


def _html_table(entry: Encoding) -> str:
    rows, width = entry.embeds.shape
    caption = f"{escape(entry.text) or '(empty)'} &mdash; {rows} rows, {width} wide"
    lines = [
        f"<tr><td>{span.start}&ndash;{span.end - 1}</td><td>{escape(_shown(span))}</td><td>{span.weight:g}</td></tr>"
        for span in entry.spans
    ]
    notes = "".join(f"<p>{escape(note)}</p>" for note in entry.notes)
    head = "<thead><tr><th>rows</th><th>text</th><th>weight</th></tr></thead>"
    return f"<table><caption>{caption}</caption>{head}<tbody>{''.join(lines)}</tbody></table>{notes}"


def _shown(span: TokenSpan) -> str:
    return span.text if span.embedding is None else f"<{span.embedding}>"


def token_spans(chunks: "Iterable[Chunk]", context: int, first_row: int = 0) -> Iterator[TokenSpan]:
    """What the rows of a text's embeddings stand for; its chunks take `context` rows each, from `first_row` on.

    Rows are the first encoder's where SDXL's second one sees another number of tokens.
    """
    for index, chunk in enumerate(chunks):
        offset = first_row + index * context
        for word, rows in chunk.rows():
            start, end = offset + rows.start, offset + rows.stop
            yield TokenSpan(word.text, start, end, word.source, word.weight, word.embedding, word.skipped)


def applied_embeddings(
    spans: Sequence[TokenSpan], embeddings: "Mapping[str, Embedding]"
) -> tuple[AppliedEmbedding, ...]:
    """Each use of a learned embedding, in order."""
    return tuple(
        AppliedEmbedding(
            name=span.embedding,
            vectors=span.end - span.start,
            positions=tuple(range(span.start, span.end)),
            weight=span.weight,
            sha256=embeddings[span.embedding].provenance.sha256,
        )
        for span in spans
        if span.embedding is not None
    )


def norm_notes(
    applied: Iterable[AppliedEmbedding], embeddings: "Mapping[str, Embedding]", towers: "Iterable[TextTower]"
) -> Iterator[str]:
    """Names the embeddings whose vectors have norms far from those of the model's words, one line each."""
    used = dict.fromkeys(use.name for use in applied if not embeddings[use.name].outputs)
    for name, tower in product(used, towers):
        vectors = embeddings[name].vectors.get(tower.key)
        if vectors is not None and (apart := norms_apart(vectors, tower.word_norm)):
            yield f"<{name}>: its vectors have {apart}"


def check_finite(embeds: "Tensor", source: str, apart: Sequence[str] = ()) -> "Tensor":
    """Returns prompt embeddings that are numbers.

    Args:
        source: The text that they are of.
        apart: What `norm_notes` said of its embeddings.

    Raises:
        InputError: they hold NaN or infinity.
    """
    if not embeds.sum().isfinite():
        if apart:
            raise InputError(f"{apart[0]}; it leaves no finite embeddings of '{shortened(source)}'")
        raise InputError(
            f"'{shortened(source)}': its weights leave no finite embeddings; use weights nearer to 1"
        )
    return embeds


def cut_notes(chunks: "Sequence[Chunk]") -> Iterator[str]:
    """Says where a word or an embedding is cut between two chunks, one line each."""
    for number, (before, chunk) in enumerate(pairwise(chunks), start=1):
        if chunk and chunk[0].skipped:
            what, parts = ("words", "tokens") if chunk[0].embedding is None else ("embeddings", "vectors")
            yield (
                f"'{shortened(chunk[0].text)}' is cut between chunks {number} and {number + 1}: {before[-1].length} "
                f"of its {parts} end the first; --keep-words keeps {what} whole"
            )


Pool = Literal["eos", "mean", "first"]
"""What stands for a text as one vector: its end token's row, the mean of its words' rows, or its first word's row."""


def pool_vector(encoding: Encoding, how: Pool, context: int) -> "Tensor":
    """(d,): a prompt's vector.

    Args:
        how: `eos`, the row of the first chunk's end token; `mean` over the rows of words and embeddings; `first`,
            the row of the first of them (the start token's is the same for every prompt). A text without words has
            its end token in all three.
        context: Rows of a chunk.
    """
    rows = sorted({row for span in encoding.spans for row in range(span.start, span.end)})
    end = max((row + 1 for row in rows if row < context), default=1)
    return pool_words(encoding.embeds[rows], encoding.embeds[end], how)


def pool_words(words: "Tensor", end: "Tensor", how: Pool) -> "Tensor":
    """(d,): what stands for a text whose words have the rows (n, d) and whose end token has (d,)."""
    if how == "eos" or not len(words):
        return end
    return words[0] if how == "first" else words.mean(dim=0)

"""What a prompt becomes, in lines for people: its parts, what holds at which steps, and each chunk row by row."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from lab.condition.chunks import Chunk
from lab.condition.conditioning import AppliedEmbedding, Conditioning, Encoding
from lab.condition.config import TextOptions
from lab.condition.prompt_encoder import PromptEncoder
from lab.condition.tokens import Word
from lab.models.bundle import Bundle
from lab.models.facts import layers_back
from lab.models.vocabulary import token_text
from lab.prompt.syntax import Timeline, Variant


@dataclass(frozen=True)
class Line:
    """Neighbouring rows of a chunk that stand for one kind of thing.

    Attributes:
        kind: The start token; words of one weight; one embedding; or the end token with the padding behind it.
        rows: Of the prompt embeddings, counted over all chunks.
        tokens: What stands there: of each word its tokens joined by `|`, the embedding as prompts name it, or how
            many padding tokens.
        weight: The weight in force; of start and end 1.
        vectors: How many vectors the embedding has there; 0 for anything else.
    """

    kind: Literal["start", "words", "embedding", "end"]
    rows: range
    tokens: tuple[str, ...]
    weight: float = 1.0
    vectors: int = 0


@dataclass(frozen=True)
class Held:
    """What a part of a prompt says at some of the steps.

    Attributes:
        text: With its schedules resolved, weight syntax still in it.
        steps: At which it holds, counted from 1.
        notes: What a person should know of how it was read.
        texts: Of each text in it (compel blends several) the chunks, each in lines.
    """

    text: str
    steps: tuple[range, ...]
    notes: tuple[str, ...]
    texts: tuple[tuple[tuple[Line, ...], ...], ...]


@dataclass(frozen=True)
class PartAccount:
    """One of the parts that `AND` joins: what multiplies its guidance, and what it says."""

    weight: float
    held: tuple[Held, ...]


@dataclass(frozen=True)
class Account:
    """What a prompt becomes.

    Attributes:
        tokens: How many tokens and learned vectors the first text has.
        room: How many tokens a chunk takes.
        applied: The embeddings in force at the first step.
        size: Of the prompt embeddings, in words.
        layer: Of the text encoder, in words.
        reading: Dialect and weighting, in words.
    """

    prompt: str
    parts: tuple[PartAccount, ...]
    tokens: int
    room: int
    applied: tuple[AppliedEmbedding, ...]
    size: str
    layer: str
    reading: str


def account(
    bundle: Bundle, encoder: PromptEncoder, made: Conditioning, options: TextOptions, negative: bool = False
) -> Account:
    """The account of a prompt.

    Args:
        encoder: The one that made it, with these options.
        negative: It is a negative prompt.
    """
    timelines = encoder.read(made.prompt, negative)
    parts = tuple(
        PartAccount(
            timeline.weight, tuple(_held(timeline, [entry for _, entry in part.entries], encoder, bundle))
        )
        for timeline, part in zip(timelines, made.parts, strict=True)
    )
    used = sum(span.end - span.start for span in made.first.spans)
    reading = f"dialect {options.dialect}, weighting {options.weighting_used}"
    return Account(
        prompt=made.prompt,
        parts=parts,
        tokens=used,
        room=bundle.context_length - 2,
        applied=tuple(made.applied),
        size=_size(made, bundle),
        layer=_layer(bundle, options),
        reading=reading,
    )


def _held(
    timeline: Timeline, encodings: Sequence[Encoding], encoder: PromptEncoder, bundle: Bundle
) -> Iterator[Held]:
    for variant, encoding, steps in _over_steps(timeline, encodings):
        texts = tuple(
            tuple(tuple(_lines(chunk, number, bundle)) for number, chunk in enumerate(chunks))
            for chunks in encoder.chunks(variant)
        )
        yield Held(variant.text, tuple(steps), encoding.notes, texts)


def _over_steps(
    timeline: Timeline, encodings: Sequence[Encoding]
) -> Iterator[tuple[Variant, Encoding, list[range]]]:
    """Each variant with the steps, counted from 1, at which it holds: alternations come back."""
    texts: dict[str, tuple[Variant, Encoding, list[range]]] = {}
    first, last = 1, timeline.variants[-1].until
    for variant, encoding in zip(timeline.variants, encodings, strict=True):
        *_, steps = texts.setdefault(variant.text, (variant, encoding, []))
        if first <= last:
            steps.append(range(first, min(variant.until + 1, last) + 1))
        first = variant.until + 2
    yield from texts.values()


def _lines(chunk: Chunk, number: int, bundle: Bundle) -> Iterator[Line]:
    """One line for each run of words of one weight, and one for each embedding."""
    tower, context = bundle.towers[0], bundle.context_length
    offset = number * context
    end = offset + 1
    yield Line("start", range(offset, end), ())
    for run in _runs(chunk):
        (word, first), (_, last) = run[0], run[-1]
        rows = range(offset + first.start, offset + last.stop)
        kind: Literal["words", "embedding"] = "words" if word.embedding is None else "embedding"
        tokens = tuple(_tokens(word, bundle) for word, _ in run)
        yield Line(kind, rows, tokens, word.weight, len(rows) if word.embedding else 0)
        end = rows.stop
    left = offset + context - end - 1
    padding = (f"{left} x {tower.tokenizer.convert_ids_to_tokens(tower.pad_token_id)}",) if left else ()
    yield Line("end", range(end, end + left + 1), padding)


def _runs(chunk: Chunk) -> Iterator[list[tuple[Word, range]]]:
    """Neighbours of one weight with their rows, each embedding for itself."""
    run: list[tuple[Word, range]] = []
    for word, rows in chunk.rows():
        before = run[-1][0] if run else word
        if run and (word.weight != before.weight or word.embedding or before.embedding):
            yield run
            run = []
        run.append((word, rows))
    if run:
        yield run


def _tokens(word: Word, bundle: Bundle) -> str:
    if word.embedding is not None:
        return f"<{word.embedding}>"
    names = bundle.towers[0].tokenizer.convert_ids_to_tokens(list(word.ids[0]))
    return "|".join(map(token_text, names))


def _size(made: Conditioning, bundle: Bundle) -> str:
    context = bundle.context_length
    counts = sorted({len(entry.embeds) // context for entry in made.entries})
    chunks = " or ".join(map(str, counts))
    width = made.embeds.shape[1]
    pooled = "" if made.pooled is None else f", pooled {len(made.pooled)}"
    return (
        f"{chunks} chunk{'s' * (counts != [1])} of {context} rows, {width} wide{pooled}; nothing is truncated"
    )


def _layer(bundle: Bundle, options: TextOptions) -> str:
    skipped = options.clip_skip_on(bundle.family)
    backs = {layers_back(bundle.family, tower.layers, skipped) for tower in bundle.towers}
    norm = "through the final LayerNorm" if bundle.traits.final_norm else "without the final LayerNorm"
    states = ", ".join(f"hidden_states[-{back}]" for back in sorted(backs))
    unused = (
        f" does nothing on this model in the {options.dialect} dialect" if skipped < options.clip_skip else ""
    )
    return f"{states} {norm}; clip skip {options.clip_skip} (A1111 shows {options.clip_skip + 1}){unused}"


def said_rows(rows: Sequence[int]) -> str:
    """Rows or steps for people: `3`, or `3 to 7`."""
    return str(rows[0]) if len(rows) == 1 else f"{rows[0]} to {rows[-1]}"

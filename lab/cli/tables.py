"""Prompts and embeddings on the terminal: chunks, tokens, weights and schedules; vectors, norms and neighbours."""

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor, stack

from lab.condition.chunks import Chunk
from lab.condition.conditioning import Conditioning, Encoding
from lab.condition.config import TextOptions
from lab.condition.encode import PromptEncoder
from lab.condition.tokens import Word
from lab.embeddings.embedding import Embedding, family
from lab.models.bundle import Bundle
from lab.models.facts import layers_back
from lab.models.vocabulary import (
    Vocabulary,
    cosines,
    nearest_tokens,
    norm_percentiles,
    norm_quartiles,
    token_text,
)
from lab.prompt.syntax import Timeline, Variant


def show_prompt(
    console: Console, bundle: Bundle, encoder: PromptEncoder, conditioning: Conditioning, options: TextOptions
) -> None:
    """Prints everything there is to know of a prompt."""
    console.rule(Text(conditioning.prompt or "(empty prompt)"), align="left")
    timelines = encoder.read(conditioning.prompt)
    for number, (timeline, part) in enumerate(zip(timelines, conditioning.parts, strict=True)):
        if len(timelines) > 1 or timeline.weight != 1:
            say(console, f"part {number + 1} of {len(timelines)}, guidance weight {timeline.weight:g}")
        encodings = [encoding for _, encoding in part.entries]
        for variant, encoding, steps in _over_steps(timeline, encodings):
            if len(timeline.variants) > 1:
                held = f"steps {', '.join(map(_ranges, steps))}" if steps else "at no step"
                say(console, f"{held}: {variant.text}")
            for note in encoding.notes:
                say(console, f"note: {note}")
            for chunks in encoder.chunks(variant):
                console.print(_table(chunks, bundle))
    for use in conditioning.applied:
        rows = _ranges(use.positions)
        say(console, f"embedding {use.name}: {use.vectors} vectors at {rows}, weight {use.weight:g}")
    say(console, _size(conditioning, bundle))
    say(console, _layer(bundle, options))
    say(console, f"dialect {options.dialect}, weighting {options.weighting_used}")


def show_vector(console: Console, how: str, vector: Tensor) -> None:
    """Prints what a pooled vector (d,) is like."""
    say(console, f"vector ({how}): {len(vector)} numbers, norm {vector.norm():.3f}")


def show_similarities(console: Console, vectors: Sequence[Tensor], how: str) -> None:
    """Prints the cosines and dot products of prompts, which are numbered as they were given."""
    rows = stack(list(vectors))
    for name, values in (("Cosines", cosines(rows)), ("Dot products", rows @ rows.T)):
        say(console, f"\n{name} of the prompts' vectors ({how})")
        table = Table("prompt", *(str(number + 1) for number in range(len(vectors))))
        for number, row in enumerate(values.tolist()):
            table.add_row(str(number + 1), *(f"{value:.3f}" for value in row))
        console.print(table)


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


def _table(chunks: Sequence[Chunk], bundle: Bundle) -> Table:
    """One line for each run of words of one weight, and one for each embedding."""
    tower, context = bundle.towers[0], bundle.context_length
    table = Table("chunk", "rows", "tokens", "weight", "embedding")
    for number, chunk in enumerate(chunks):
        offset = number * context
        table.add_row(str(number + 1), str(offset), Text("start", style="dim"), "", "")
        end = offset + 1
        for run in _runs(chunk):
            (word, first), (_, last) = run[0], run[-1]
            rows = range(offset + first.start, offset + last.stop)
            learned = f"{word.embedding}, {len(rows)} vectors" if word.embedding else ""
            tokens = _tokens([word for word, _ in run], bundle)
            table.add_row("", _ranges(rows), tokens, f"{word.weight:g}", Text(learned))
            end = rows.stop
        left = offset + context - end - 1
        pad = f", {left} x {tower.tokenizer.convert_ids_to_tokens(tower.pad_token_id)}" if left else ""
        table.add_row("", _ranges(range(end, end + left + 1)), Text(f"end{pad}", style="dim"), "", "")
        table.add_section()
    return table


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


def _tokens(words: Sequence[Word], bundle: Bundle) -> Text:
    if words[0].embedding is not None:
        return Text(f"<{words[0].embedding}>", style="bold")
    names = bundle.towers[0].tokenizer.convert_ids_to_tokens
    return Text(" ".join("|".join(map(token_text, names(list(word.ids[0])))) for word in words))


def _size(conditioning: Conditioning, bundle: Bundle) -> str:
    context = bundle.context_length
    counts = sorted({len(entry.embeds) // context for entry in conditioning.entries})
    chunks = " or ".join(map(str, counts))
    width = conditioning.embeds.shape[1]
    pooled = "" if conditioning.pooled is None else f", pooled {len(conditioning.pooled)}"
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


def _ranges(rows: Sequence[int]) -> str:
    return str(rows[0]) if len(rows) == 1 else f"{rows[0]} to {rows[-1]}"


NEAREST = 10
LARGEST_MATRIX = 12
"""Cosines among more vectors than these are too wide to read; their extremes are shown instead."""


def show_embedding(console: Console, embedding: Embedding, vocabularies: Mapping[str, Vocabulary]) -> None:
    """Prints what is known of an embedding, and its vectors beside the vocabularies of a model, if there are any.

    Args:
        vocabularies: By the name under which embeddings address the text encoder.
    """
    console.rule(Text(embedding.name), align="left")
    for label, value in _facts(embedding):
        say(console, f"{label:<14} {value}")
    for key, tensor in embedding.vectors.items():
        _show_vectors(console, key, tensor, vocabularies)


def _facts(embedding: Embedding) -> Iterator[tuple[str, str]]:
    """What is known of an embedding as a whole, as labels and values."""
    origin = embedding.provenance
    yield "file", str(origin.path)
    yield "layout", origin.layout
    yield "in prompts", f"<{embedding.name}>"
    yield "internal name", origin.internal_name or "none"
    yield "kind", embedding.kind
    yield "vectors", str(embedding.count)
    yield "widths", ", ".join(f"{key} {width}" for key, width in embedding.widths.items())
    yield "family", family(embedding)
    yield "steps", "unknown" if origin.step is None else str(origin.step)
    yield "base model", origin.base_model or "unknown"
    yield "sha256", origin.sha256
    yield "A1111 hash", embedding.a1111_hash
    if embedding.a1111_checksum:
        yield "A1111 checksum", embedding.a1111_checksum
    for key, value in sorted(origin.metadata.items()):
        yield "metadata", f"{key}: {value}"
    for note in origin.notes:
        yield "note", note


def _show_vectors(console: Console, key: str, tensor: Tensor, vocabularies: Mapping[str, Vocabulary]) -> None:
    """Prints the vectors (n, width) for one encoder, beside its vocabulary if there is one of that width."""
    vocabulary = vocabularies.get(key)
    if vocabulary is not None and vocabulary.table.shape[1] != tensor.shape[1]:
        vocabulary = None
    if vocabularies and vocabulary is None:
        widths = ", ".join(f"{name} {one.table.shape[1]}" for name, one in vocabularies.items())
        say(console, f"The model has {widths}; nothing to compare {key} {tensor.shape[1]} with.")
    say(console, f"\nVectors of {key}")
    console.print(_vectors_table(tensor, vocabulary))
    if len(tensor) > 1:
        labels = [str(number) for number in range(len(tensor))]
        _show_cosines(console, f"Cosines between the vectors of {key}", labels, tensor)


def show_together(console: Console, embeddings: Sequence[Embedding]) -> None:
    """Prints the cosines between the mean vectors of embeddings of the same encoder and width."""
    for key, width in dict.fromkeys(item for one in embeddings for item in one.widths.items()):
        alike = [one for one in embeddings if one.widths.get(key) == width]
        if len(alike) > 1:
            means = stack([one.vectors[key].mean(dim=0) for one in alike])
            title = f"Cosines between the mean vectors of {key}"
            _show_cosines(console, title, [one.name for one in alike], means)


def _vectors_table(tensor: Tensor, vocabulary: Vocabulary | None) -> Table:
    table = Table("vector", "norm")
    norms = [f"{norm:.3f}" for norm in tensor.norm(dim=1).tolist()]
    if vocabulary is None:
        for number, norm in enumerate(norms):
            table.add_row(str(number), norm)
        return table
    low, middle, high = norm_quartiles(vocabulary.table)
    table.caption = f"quartiles of the vocabulary's norms: {low:.3f}, {middle:.3f}, {high:.3f}"
    table.add_column("larger than")
    table.add_column(f"{NEAREST} nearest tokens (cosine)")
    shares = norm_percentiles(tensor, vocabulary.table)
    neighbours = nearest_tokens(tensor, vocabulary, NEAREST)
    for number, (norm, share, near) in enumerate(zip(norms, shares, neighbours, strict=True)):
        tokens = Text(", ".join(f"{token} {cosine:.2f}" for token, cosine in near))
        table.add_row(str(number), norm, f"{share:.0f} % of tokens", tokens)
    return table


def _show_cosines(console: Console, title: str, labels: Sequence[str], vectors: Tensor) -> None:
    values = cosines(vectors)
    if len(labels) > LARGEST_MATRIX:
        pairs = values[values.new_ones(values.shape).tril(-1).bool()]
        low, middle, high = (pairs.quantile(share).item() for share in (0, 0.5, 1))
        say(console, f"{title}: {low:.2f} to {high:.2f}, median {middle:.2f}")
        return
    say(console, f"\n{title}")
    table = Table()
    for heading in ("", *labels):
        table.add_column(Text(heading), overflow="fold")
    for label, row in zip(labels, values.tolist(), strict=True):
        table.add_row(Text(label), *(f"{value:.2f}" for value in row))
    console.print(table)


def say(console: Console, line: str) -> None:
    """Prints a line as it stands, however long; brackets in it are no markup."""
    console.print(line, soft_wrap=True, markup=False, highlight=False)

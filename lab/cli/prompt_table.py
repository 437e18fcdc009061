"""A prompt on the terminal: its chunks, tokens, weights, embeddings and schedule."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from lab.condition.chunks import Chunk
from lab.condition.conditioning import Conditioning
from lab.condition.config import TextOptions
from lab.condition.encode import PromptEncoder
from lab.condition.pooling import similarities
from lab.condition.tokens import Piece
from lab.condition.towers import layers_back
from lab.condition.weighting import OWN_WEIGHTING
from lab.models.bundle import Bundle
from lab.prompt.syntax import Timeline, Variant


def show_prompt(
    console: Console, bundle: Bundle, encoder: PromptEncoder, conditioning: Conditioning, options: TextOptions
) -> None:
    """Prints everything there is to know of a prompt."""
    console.rule(Text(conditioning.prompt or "(empty prompt)"), align="left")
    timelines = encoder.read(conditioning.prompt)
    for number, timeline in enumerate(timelines):
        if len(timelines) > 1 or timeline.weight != 1:
            _say(console, f"part {number + 1} of {len(timelines)}, guidance weight {timeline.weight:g}")
        for variant, steps in _over_steps(timeline):
            if len(timeline.variants) > 1:
                _say(console, f"steps {', '.join(map(_ranges, steps))}: {variant.text}")
            for note in variant.reading.notes:
                _say(console, f"note: {note}")
            for chunks in encoder.chunks(variant):
                console.print(_table(chunks, bundle))
    for use in conditioning.applied:
        places = _ranges(use.positions)
        _say(console, f"embedding {use.name}: {use.vectors} vectors at {places}, weight {use.weight:g}")
    _say(console, _size(conditioning, bundle))
    _say(console, _layer(bundle, options))
    _say(
        console, f"dialect {options.dialect}, weighting {options.weighting or OWN_WEIGHTING[options.dialect]}"
    )


def show_vector(console: Console, how: str, vector: Tensor) -> None:
    """Prints what a pooled vector (d,) is like."""
    _say(console, f"vector ({how}): {len(vector)} numbers, norm {vector.norm():.3f}")


def show_similarities(console: Console, vectors: Sequence[Tensor], how: str) -> None:
    """Prints the cosines and dot products of prompts, which are numbered as they were given."""
    names = ("Cosines", "Dot products")
    for name, values in zip(names, similarities(vectors), strict=True):
        _say(console, f"\n{name} of the prompts' vectors ({how})")
        table = Table("prompt", *(str(number + 1) for number in range(len(vectors))))
        for number, row in enumerate(values.tolist()):
            table.add_row(str(number + 1), *(f"{value:.3f}" for value in row))
        console.print(table)


def _over_steps(timeline: Timeline) -> Iterator[tuple[Variant, list[range]]]:
    """Each variant with the steps, counted from 1, at which it holds: alternations come back."""
    texts: dict[str, tuple[Variant, list[range]]] = {}
    first = 1
    for variant in timeline.variants:
        texts.setdefault(variant.text, (variant, []))[1].append(range(first, variant.until + 1))
        first = variant.until + 1
    yield from texts.values()


def _table(chunks: Sequence[Chunk], bundle: Bundle) -> Table:
    tower = bundle.towers[0]
    room = bundle.context_length - 2
    table = Table("chunk", "rows", "tokens", "weight", "embedding")
    for number, chunk in enumerate(chunks):
        row = number * (room + 2) + 1
        table.add_row(str(number + 1), str(row - 1), Text("start", style="dim"), "", "")
        for run in _runs(chunk):
            length = sum(len(piece.ids[0]) for piece in run)
            learned = f"{run[0].embedding}, {length} vectors" if run[0].embedding else ""
            rows = _ranges(range(row, row + length))
            table.add_row("", rows, _tokens(run, bundle), f"{run[0].weight:g}", Text(learned))
            row += length
        left = (number + 1) * (room + 2) - row - 1
        pad = f", {left} x {tower.tokenizer.convert_ids_to_tokens(tower.pad_token_id)}" if left else ""
        table.add_row("", _ranges(range(row, row + left + 1)), Text(f"end{pad}", style="dim"), "", "")
        table.add_section()
    return table


def _runs(chunk: Chunk) -> Iterator[list[Piece]]:
    """Neighbours of one weight, each embedding for itself."""
    keys = {id(piece): number for number, piece in enumerate(chunk) if piece.embedding is not None}
    for _, run in groupby(chunk, key=lambda piece: (piece.weight, keys.get(id(piece)))):
        yield list(run)


def _tokens(run: Sequence[Piece], bundle: Bundle) -> Text:
    if run[0].embedding is not None:
        return Text(f"<{run[0].embedding}>", style="bold")
    tokenizer = bundle.towers[0].tokenizer
    words = ("|".join(tokenizer.convert_ids_to_tokens(list(piece.ids[0]))) for piece in run)
    return Text(" ".join(word.replace("</w>", "") for word in words))


def _size(conditioning: Conditioning, bundle: Bundle) -> str:
    context = bundle.context_length
    entries = [entry for part in conditioning.parts for _, entry in part.entries]
    counts = sorted({len(entry.embeds) // context for entry in entries})
    chunks = " or ".join(map(str, counts))
    width = entries[0].embeds.shape[1]
    pooled = "" if entries[0].pooled is None else f", pooled {len(entries[0].pooled)}"
    return (
        f"{chunks} chunk{'s' * (counts != [1])} of {context} rows, {width} wide{pooled}; nothing is truncated"
    )


def _layer(bundle: Bundle, options: TextOptions) -> str:
    backs = {layers_back(bundle.family, tower, options.clip_skip) for tower in bundle.towers}
    norm = "through the final LayerNorm" if bundle.traits.final_norm else "without the final LayerNorm"
    states = ", ".join(f"hidden_states[-{back}]" for back in sorted(backs))
    return f"{states} {norm}; clip skip {options.clip_skip} (A1111 shows {options.clip_skip + 1})"


def _ranges(rows: Sequence[int]) -> str:
    return str(rows[0]) if len(rows) == 1 else f"{rows[0]} to {rows[-1]}"


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, markup=False, highlight=False)

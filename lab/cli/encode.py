"""`lab encode`: what a prompt becomes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lab.cli.flags import ModelFlags, TextFlags, choice_from
from lab.condition.conditioning import Conditioning, Encoding, Pool, pool_vector
from lab.condition.config import TextOptions
from lab.condition.embeds_file import check_embeds_file, write_embeds
from lab.errors import InputError
from lab.files import check_writable
from lab.models.config import ModelOptions
from lab.models.facts import check_clip_skip, check_widths, layers_back, read_facts
from lab.prompt.dialects import DIALECTS
from lab.prompt.parse import references_in
from lab.prompt.syntax import Timeline, Variant
from lab.terminal import Bars, make_console, say

if TYPE_CHECKING:  # what is wrong is told before the engine is imported
    from torch import Tensor

    from lab.condition.chunks import Chunk
    from lab.condition.prompt_encoder import PromptEncoder
    from lab.condition.tokens import Word
    from lab.condition.translate import Translator
    from lab.models.bundle import Bundle

TO = "Says the prompts in this dialect instead, with the weights whose embeddings come nearest there."

ToFlag = Annotated[
    str | None,
    choice_from({name: one for name, one in DIALECTS.items() if one.emphasis}, "dialect", TO),
    Parameter(group="Text"),
]


def encode(
    *prompts: str,
    text: TextFlags = TextOptions(),
    model: ModelFlags = ModelOptions(),
    steps: Annotated[int, Parameter(group="Text")] = 20,
    out: Path | None = None,
    pool: Pool = "eos",
    to: ToFlag = None,
) -> None:
    """Show what prompts become: chunks, tokens, weights, embeddings, schedule, layer; or what another tool calls them.

    Args:
        prompts: One prompt or several; several are compared.
        steps: Denoising steps, over which schedules are laid out; twice as many for heun.
        out: A .safetensors file for the prompt embeddings, to give to lab generate --embeds; several prompts are
            numbered.
        pool: What stands for a prompt as one vector: its end token's row, the mean of its words' rows, or its first
            word's row.
    """
    if not prompts:
        raise InputError("lab encode: give at least one prompt")
    if steps < 1:
        raise InputError(f"--steps {steps}: at least 1")
    if to is not None and out is not None:
        raise InputError("--out: --to gives text; encode that text for its embeddings")
    if out is not None:
        check_embeds_file(out)
        check_writable(out.parent)
    with Bars() as bars:
        facts = read_facts(model, bars, without_vae=True)
    check_clip_skip(text.clip_skip, facts)
    from lab.condition.prompt_encoder import PromptEncoder
    from lab.condition.translate import Translator
    from lab.embeddings.library import collect
    from lab.models.load import load_options

    library = collect(text.embedding, text.embeddings)
    named = (found for prompt in prompts for found in references_in(prompt, library, text.dialect))
    for reference in named:
        check_widths(reference.name, library[reference.name].widths, facts)
    bundle = load_options(model, facts=facts, text_only=True)
    if to is not None:
        _show_translations(Translator(bundle, library, text, to, steps), prompts)
        return
    encoder = PromptEncoder(bundle, library, text, steps)
    made = encoder.encode(prompts)
    console = make_console()
    context = bundle.context_length
    vectors = [pool_vector(made[prompt].first, pool, context) for prompt in prompts]
    for number, prompt in enumerate(prompts):
        _show_prompt(console, bundle, encoder, made[prompt], text)
        say(console, f"vector ({pool}): {len(vectors[number])} numbers, norm {vectors[number].norm():.3f}")
        if out is not None:
            path = out if len(prompts) == 1 else out.with_stem(f"{out.stem}-{number + 1}")
            about = {"model": model.model, "steps": steps, "pool": pool, **text.model_dump(mode="json")}
            write_embeds(path, made[prompt], about, {"vector": vectors[number].clone()})
            say(console, f"written to {path}")
    if len(prompts) > 1:
        _show_similarities(console, vectors, pool)


def _show_translations(translator: "Translator", prompts: Sequence[str]) -> None:
    """Prints each prompt in the other dialect, what cannot be said there, and how near it comes."""
    console = make_console()
    for prompt in prompts:
        console.rule(Text(prompt or "(empty prompt)"), align="left")
        found = translator.translate(prompt)
        say(console, found.text)
        for note in found.notes:
            say(console, f"note: {note}")
        missing, carried = (f"{100 * share:.1f} %" for share in (found.residual, found.carried))
        as_written = "" if missing == carried else f"; with the weights as they were written by {carried}"
        say(console, f"off by {missing} of what the prompt does to the prompt embeddings{as_written}")


def _show_prompt(
    console: Console,
    bundle: "Bundle",
    encoder: "PromptEncoder",
    conditioning: Conditioning,
    options: TextOptions,
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


def _show_similarities(console: Console, vectors: "Sequence[Tensor]", how: str) -> None:
    """Prints the cosines and dot products of prompts, which are numbered as they were given."""
    from torch import stack

    from lab.models.vocabulary import cosines

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


def _table(chunks: "Sequence[Chunk]", bundle: "Bundle") -> Table:
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


def _runs(chunk: "Chunk") -> "Iterator[list[tuple[Word, range]]]":
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


def _tokens(words: "Sequence[Word]", bundle: "Bundle") -> Text:
    from lab.models.vocabulary import token_text

    if words[0].embedding is not None:
        return Text(f"<{words[0].embedding}>", style="bold")
    names = bundle.towers[0].tokenizer.convert_ids_to_tokens
    return Text(" ".join("|".join(map(token_text, names(list(word.ids[0])))) for word in words))


def _size(conditioning: Conditioning, bundle: "Bundle") -> str:
    context = bundle.context_length
    counts = sorted({len(entry.embeds) // context for entry in conditioning.entries})
    chunks = " or ".join(map(str, counts))
    width = conditioning.embeds.shape[1]
    pooled = "" if conditioning.pooled is None else f", pooled {len(conditioning.pooled)}"
    return (
        f"{chunks} chunk{'s' * (counts != [1])} of {context} rows, {width} wide{pooled}; nothing is truncated"
    )


def _layer(bundle: "Bundle", options: TextOptions) -> str:
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

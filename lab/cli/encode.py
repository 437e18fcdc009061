"""`lab encode`: what a prompt becomes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lab.cli.flags import ModelFlags, TextFlags, choice_from
from lab.condition.conditioning import Pool, pool_vector
from lab.condition.config import TextOptions
from lab.condition.embeds_file import check_embeds_file, write_embeds
from lab.embeddings.facts import check_fits
from lab.errors import InputError
from lab.files import check_writable
from lab.models.config import ModelOptions
from lab.models.facts import check_clip_skip, read_facts
from lab.prompt.dialects import DIALECTS
from lab.prompt.parse import references_in
from lab.terminal import Bars, make_console, say
from lab.text import counted

if TYPE_CHECKING:  # what is wrong is told before the engine is imported
    from torch import Tensor

    from lab.condition.account import Account, Line
    from lab.condition.translate import Translator

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
    from lab.condition.account import account
    from lab.condition.prompt_encoder import PromptEncoder
    from lab.condition.translate import Translator
    from lab.embeddings.library import collect
    from lab.models.load import load_options

    library = collect(text.embedding, text.embeddings)
    named = (found for prompt in prompts for found in references_in(prompt, library, text.dialect))
    for reference in named:
        check_fits(library[reference.name], facts)
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
        _show_prompt(console, account(bundle, encoder, made[prompt], text))
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


def _show_prompt(console: Console, account: "Account") -> None:
    """Prints everything there is to know of a prompt."""
    from lab.condition.account import said_rows

    console.rule(Text(account.prompt or "(empty prompt)"), align="left")
    for number, part in enumerate(account.parts):
        if len(account.parts) > 1 or part.weight != 1:
            say(console, f"part {number + 1} of {len(account.parts)}, guidance weight {part.weight:g}")
        for held in part.held:
            if len(part.held) > 1:
                steps = f"steps {', '.join(map(said_rows, held.steps))}" if held.steps else "at no step"
                say(console, f"{steps}: {held.text}")
            for note in held.notes:
                say(console, f"note: {note}")
            for chunks in held.texts:
                console.print(_table(chunks))
    for use in account.applied:
        rows = said_rows(use.positions)
        say(
            console,
            f"embedding {use.name}: {counted(use.vectors, 'vector')} at {rows}, weight {use.weight:g}",
        )
    for line in (account.size, account.layer, account.reading):
        say(console, line)


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


def _table(chunks: "Sequence[Sequence[Line]]") -> Table:
    """One line for each run of words of one weight, and one for each embedding."""
    from lab.condition.account import said_rows

    table = Table("chunk", "rows", "tokens", "weight", "embedding")
    for number, lines in enumerate(chunks):
        for line in lines:
            first = str(number + 1) if line.kind == "start" else ""
            if line.kind in ("start", "end"):
                tokens, weight = Text(", ".join((line.kind, *line.tokens)), style="dim"), ""
            else:
                style = "bold" if line.kind == "embedding" else ""
                tokens, weight = Text(" ".join(line.tokens), style=style), f"{line.weight:g}"
            learned = f"{line.tokens[0][1:-1]}, {counted(line.vectors, 'vector')}" if line.vectors else ""
            table.add_row(first, said_rows(line.rows), tokens, weight, Text(learned))
        table.add_section()
    return table

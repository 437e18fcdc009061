"""`lab encode`: what a prompt becomes."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lab.cli.flags import ModelFlags, TextFlags
from lab.condition.conditioning import Pool, pool_vector
from lab.condition.config import TextOptions
from lab.condition.embeds_file import check_embeds_file, write_embeds
from lab.errors import InputError
from lab.files import check_writable
from lab.models.config import ModelOptions
from lab.models.facts import check_clip_skip, check_widths, read_facts
from lab.prompt.parse import references_in
from lab.terminal import Bars, make_console


def encode(
    *prompts: str,
    text: TextFlags = TextOptions(),
    model: ModelFlags = ModelOptions(),
    steps: Annotated[int, Parameter(group="Text")] = 20,
    out: Path | None = None,
    pool: Pool = "eos",
) -> None:
    """Show what prompts become: chunks, tokens, weights, embeddings, schedule, layer.

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
    if out is not None:
        check_embeds_file(out)
        check_writable(out.parent)
    with Bars() as bars:
        facts = read_facts(model, bars)
    check_clip_skip(text.clip_skip, facts)
    from lab.cli.tables import show_prompt, show_similarities, show_vector
    from lab.condition.encode import PromptEncoder
    from lab.embeddings.library import collect
    from lab.models.load import load_options

    library = collect(text.embedding, text.embeddings)
    named = (found for prompt in prompts for found in references_in(prompt, library, text.dialect))
    for reference in named:
        check_widths(reference.name, library[reference.name].widths, facts)
    bundle = load_options(model, facts=facts)
    encoder = PromptEncoder(bundle, library, text, steps)
    made = encoder.encode(prompts)
    console = make_console()
    context = bundle.context_length
    vectors = [pool_vector(made[prompt].first, pool, context) for prompt in prompts]
    for number, prompt in enumerate(prompts):
        show_prompt(console, bundle, encoder, made[prompt], text)
        show_vector(console, pool, vectors[number])
        if out is not None:
            path = out if len(prompts) == 1 else out.with_stem(f"{out.stem}-{number + 1}")
            about = {"model": model.model, "steps": steps, "pool": pool, **text.model_dump(mode="json")}
            write_embeds(path, made[prompt], about, {"vector": vectors[number].clone()})
            console.print(f"written to {path}", soft_wrap=True, markup=False, highlight=False)
    if len(prompts) > 1:
        show_similarities(console, vectors, pool)

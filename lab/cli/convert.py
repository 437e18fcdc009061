"""`lab convert`: an embedding in another file layout, or for another model."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from lab.cli.flags import LayoutFlag, check_embeddings
from lab.embeddings.facts import check_fits
from lab.embeddings.layouts import WRITABLE, check_target
from lab.errors import InputError
from lab.files import check_writable
from lab.models.config import ModelOptions
from lab.models.facts import read_facts
from lab.terminal import Bars, make_console, say

if TYPE_CHECKING:  # what is wrong is told before the engine is imported
    from lab.embeddings.embedding import Embedding


def convert(
    source: str,
    out: Path,
    /,
    *,
    layout: LayoutFlag = None,
    from_model: str | None = None,
    to_model: str | None = None,
    refine: bool = False,
) -> None:
    """Write an embedding in another file layout, typically a pickle as safetensors, or for another model.

    Args:
        source: The embedding: a file of any layout, a folder that holds one, or hub:org/name.
        out: The file to write: .safetensors, or .pt or .bin for a pickle.
        from_model: The model that it was made for: emoji, a diffusers folder, file:x.safetensors or hub:org/name.
        to_model: A model with the same vocabulary that it is to be used with instead; words that are kept apart say
            how much is lost on the way.
        refine: Goes on from there by what the vectors do, through both text encoders, which takes minutes for SDXL's on
            a CPU: words lose less so; images of learned things gained nothing where it was measured.
    """
    check_embeddings([source])
    check_target(out, layout)
    check_writable(out.parent, "place")
    if (from_model is None) != (to_model is None):
        raise InputError("from one model to another takes both; give --from-model and --to-model")
    if refine and to_model is None:
        raise InputError(
            "refine: is for the way to another model; give --from-model and --to-model, or leave it out"
        )
    from lab.embeddings.read import read_one

    embedding = read_one(source, name=out.stem)
    made, how = embedding, ""
    if from_model is not None and to_model is not None:
        made, how = _for_model(embedding, from_model, to_model, layout, refine)
    made.save(out, layout)
    written = read_one(out)
    left = sorted(embedding.foreign.keys() - written.foreign.keys())
    if left:
        print(f"left out, as no model here has their text encoders: {', '.join(left)}")
    vectors = " + ".join(f"{key} {written.count} x {width}" for key, width in written.widths.items())
    print(f"{source} ({embedding.provenance.layout}) -> {out} ({written.provenance.layout}): {vectors}{how}")


def _for_model(
    embedding: "Embedding", from_model: str, to_model: str, layout: str | None, refine: bool
) -> "tuple[Embedding, str]":
    """The embedding for another model, and how it was made; prints what that loses of words."""
    here, there = (ModelOptions(model=model) for model in (from_model, to_model))
    check_fits(embedding, read_facts(here, without_vae=True))
    encoders = read_facts(there, without_vae=True).widths
    if layout is not None and (
        write := WRITABLE[layout].write
    ):  # what it cannot hold is told before minutes of work
        write(embedding, dict.fromkeys(encoders, next(iter(embedding.vectors.values()))))
    from lab.condition.convert import Converter
    from lab.models.load import load_options

    source, target = (load_options(options, text_only=True) for options in (here, there))
    with Bars() as bars:
        found = Converter(source, target).convert(embedding, refined=refine, listener=bars)
    if found.losses:
        table = Table("of words kept apart is lost", "of vectors", "of what they do")
        for how, loss in found.losses.items():
            table.add_row(how, *("–" if share is None else f"{100 * share:.0f} %" for share in loss))
        console = make_console()
        console.print(table)
        if found.taken:
            say(console, f"taken as they are, of the same text encoder: {', '.join(found.taken)}")
    return found.embedding, f"; {found.how}"

"""`lab inspect`: what embedding files hold."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lab.cli.flags import check_embeddings
from lab.errors import InputError
from lab.files import check_writable
from lab.models.config import ModelOptions
from lab.models.facts import read_facts
from lab.terminal import Bars, make_console

if TYPE_CHECKING:
    from lab.embeddings.embedding import Embedding
    from lab.models.vocabulary import Vocabulary


def inspect(
    *files: str,
    model: str | None = None,
    variant: str | None = None,
    plot: Path | None = None,
    word: list[str] | None = None,
    prompt: list[str] | None = None,
) -> None:
    """Show what embedding files hold: layout, names, vectors, norms, cosines and nearest tokens.

    Args:
        files: Embeddings: files of any layout, folders of them, or hub:org/name.
        model: A model whose vocabulary the vectors are held against: emoji, a diffusers folder,
            file:x.safetensors or hub:org/name.
        variant: Of a folder or hub model, the files of this variant, such as fp16.
        plot: Draws cosines, dot products, norms and a map (PCA) of the vectors into a .png or .svg file, and writes
            the numbers into a .json file beside it.
        word: A word of the model's vocabulary to plot beside the vectors; repeatable.
        prompt: A prompt, which may name the embeddings, to plot beside the other prompts; repeatable.
    """
    _check_plot(plot, word or [], prompt or [], model)
    if not files:
        raise InputError("lab inspect: name at least one embedding file")
    check_embeddings(files)
    if model:
        read_facts(ModelOptions(model=model, variant=variant))
    embeddings = _read(files)
    vocabularies: Mapping[str, Vocabulary] = {}
    if model:
        from lab.models.vocabulary import read_vocabularies

        vocabularies = read_vocabularies(model, variant)
    from lab.cli.tables import say, show_embedding, show_together

    console = make_console()
    for embedding in embeddings:
        show_embedding(console, embedding, vocabularies)
    show_together(console, embeddings)
    if plot:
        _plot(plot, embeddings, vocabularies, word or [], prompt or [], model, variant)
        say(console, f"\n{plot} shows them together; {plot.with_suffix('.json')} has the numbers")


def _read(files: Sequence[str]) -> list["Embedding"]:
    from lab.embeddings.read import read_all

    with Bars() as bars:
        found = [embedding for file in files for embedding in read_all(file, listener=bars)]
    return list({one.provenance.path: one for one in found}.values())  # both halves of a pair may be named


def _check_plot(plot: Path | None, words: Sequence[str], prompts: Sequence[str], model: str | None) -> None:
    """Refuses what cannot be plotted before anything is read."""
    if plot is None:
        if words or prompts:
            raise InputError("--word and --prompt say what to plot; give a file with --plot")
        return
    from lab.analysis.figures import check_suffix

    check_suffix(plot)
    check_writable(plot.parent, "--plot")
    if (words or prompts) and model is None:
        raise InputError("--word and --prompt need the model that they are words of; give --model")


def _plot(
    path: Path,
    embeddings: Sequence["Embedding"],
    vocabularies: Mapping[str, "Vocabulary"],
    words: Sequence[str],
    prompts: Sequence[str],
    model: str | None,
    variant: str | None,
) -> None:
    from lab.analysis.geometry import learned_geometry, prompt_geometry, write_geometries

    keys = dict.fromkeys(key for one in embeddings for key in one.vectors)
    spaces = [
        learned_geometry(embeddings, key, vocabularies.get(key), words if key in vocabularies else ())
        for key in keys
    ]
    if prompts and model is not None:
        from lab.models.load import load

        spaces.append(prompt_geometry(load(model, variant=variant), prompts, embeddings))
    write_geometries(path, spaces)

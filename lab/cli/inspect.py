"""`lab inspect`: what embedding files hold."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lab.cli.flags import check_embeddings
from lab.embeddings.embedding import CLIP_NORM, Embedding, ForeignEmbeddingError, norms_apart
from lab.embeddings.facts import facts
from lab.errors import InputError
from lab.files import check_writable
from lab.judging.config import card_beside
from lab.models.config import ModelOptions
from lab.models.facts import read_facts
from lab.terminal import Bars, make_console, say

if TYPE_CHECKING:  # what is wrong is told before the engine is imported
    from torch import Tensor

    from lab.models.vocabulary import Vocabulary


def inspect(
    *files: str,
    model: str | None = None,
    variant: str | None = None,
    plot: Path | None = None,
    word: list[str] | None = None,
    prompt: list[str] | None = None,
    explain: bool = False,
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
        explain: Searches the model's vocabulary for the words that do most nearly what the embedding does in prompts,
            and says how much of it they do.
    """
    _check_plot(plot, word or [], prompt or [], model)
    if explain and model is None:
        raise InputError("--explain looks for words with a model's text encoder; give --model")
    if not files:
        raise InputError("lab inspect: name at least one embedding file")
    check_embeddings(files)
    if model:
        read_facts(ModelOptions(model=model, variant=variant), without_vae=True)
    embeddings, strangers = _read(files)
    vocabularies: Mapping[str, Vocabulary] = {}
    if model:
        from lab.models.vocabulary import read_vocabularies

        vocabularies = read_vocabularies(model, variant)
    console = make_console()
    for embedding in embeddings:
        _show_embedding(console, embedding, vocabularies)
    for error in strangers:
        console.rule()
        say(console, str(error))
        for key, tensor in error.vectors.items():
            _show_rows(console, key, tensor)
    _show_together(console, embeddings)
    if explain and model is not None:
        _explain(console, embeddings, ModelOptions(model=model, variant=variant))
    if plot:
        _plot(plot, embeddings, vocabularies, word or [], prompt or [], model, variant)
        say(console, f"\n{plot} shows them together; {plot.with_suffix('.json')} has the numbers")


def _read(files: Sequence[str]) -> tuple[list[Embedding], list[ForeignEmbeddingError]]:
    """The embeddings, and what is to be said of those that are for other families alone."""
    from lab.embeddings.read import read_all

    found, strangers = list[Embedding](), list[ForeignEmbeddingError]()
    with Bars() as bars:
        for file in files:
            try:
                found += read_all(file, listener=bars)
            except ForeignEmbeddingError as error:
                strangers.append(error)
    # Both halves of a pair may be named.
    return list({one.provenance.path: one for one in found}.values()), strangers


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
    embeddings: Sequence[Embedding],
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
        from lab.models.load import load_options

        bundle = load_options(ModelOptions(model=model, variant=variant), text_only=True)
        spaces.append(prompt_geometry(bundle, prompts, embeddings))
    write_geometries(path, spaces)


def _explain(console: Console, embeddings: Sequence[Embedding], model: ModelOptions) -> None:
    """Prints the words nearest in effect to each embedding, and what they leave."""
    from lab.models.load import load_options
    from lab.search.explain import KEPT_APART, explain, measured_in, nearest_words

    bundle = load_options(model, text_only=True)
    for embedding in embeddings:
        if embedding.outputs or embedding.layers:
            say(
                console,
                f"\n<{embedding.name}> acts behind the text encoder or in the U-Net's layers, as no words do",
            )
            continue
        near, table, share = nearest_words(bundle, embedding), Table("words", "of what it does"), 0.0
        with Bars() as bars:
            for words, share in explain(bundle, embedding, listener=bars):
                table.add_row(Text(" ".join(words)), f"{100 * share:.0f} %")
        apart = set(measured_in(bundle, embedding)) <= set(KEPT_APART)
        where = (
            "contexts that were not searched in" if apart else "the context searched in; no other has room"
        )
        say(console, f"\n<{embedding.name}> in words, by their effect in {where}")
        console.print(table)
        say(console, f"the words nearest its vectors ({' '.join(near.words)}) do {100 * near.share:.0f} %")
        left = 100 * (1 - max(share, near.share))
        say(console, f"what is left: {left:.0f} % of what it does is in none of these words")


NEAREST = 10
LARGEST_MATRIX = 12
"""Cosines among more vectors than these are too wide to read; their extremes are shown instead."""

MOST_COMPARED = 2000
"""Vectors whose cosines are computed: their number grows with the square."""


def _show_embedding(console: Console, embedding: Embedding, vocabularies: "Mapping[str, Vocabulary]") -> None:
    """Prints what is known of an embedding, and its vectors beside the vocabularies of a model, if there are any.

    Args:
        vocabularies: By the name under which embeddings address the text encoder.
    """
    console.rule(Text(embedding.name), align="left")
    for label, value in facts(embedding):
        say(console, f"{label:<14} {value}")
    _show_card(console, embedding)
    for key, tensor in embedding.vectors.items():
        if tensor.any():
            _show_vectors(console, key, tensor, vocabularies)
    behind = {f"{key} behind the text encoder": tensor for key, tensor in embedding.outputs.items()}
    for label, tensor in (behind | embedding.foreign).items():
        _show_rows(console, label, tensor)


def _show_card(console: Console, embedding: Embedding) -> None:
    """Prints what `lab judge` found of an embedding, where its card lies beside the file."""
    card = card_beside(embedding)
    if card is None:
        return
    say(console, "\nCard")
    about = card.get("file")
    if not isinstance(about, dict) or about.get("sha256") != embedding.provenance.sha256:
        say(console, "It is of a file with other contents.")
    for sentence in card["sentences"]:
        say(console, str(sentence))


def _show_vectors(
    console: Console, key: str, tensor: "Tensor", vocabularies: "Mapping[str, Vocabulary]"
) -> None:
    """Prints the vectors (n, width) for one encoder, beside its vocabulary if there is one of that width."""
    vocabulary = vocabularies.get(key)
    if vocabulary is not None and vocabulary.table.shape[1] != tensor.shape[1]:
        vocabulary = None
    if vocabularies and vocabulary is None:
        widths = ", ".join(f"{name} {one.table.shape[1]}" for name, one in vocabularies.items())
        say(console, f"The model has {widths}; nothing to compare {key} {tensor.shape[1]} with.")
    usual = CLIP_NORM if vocabulary is None else float(vocabulary.table.norm(dim=1).median())
    if apart := norms_apart(tensor, usual):
        say(console, f"{'note':<14} the vectors of {key} have {apart}")
    say(console, f"\nVectors of {key}")
    console.print(_vectors_table(tensor, vocabulary))
    if len(tensor) > 1:
        labels = [str(number) for number in range(len(tensor))]
        _show_cosines(console, f"Cosines between the vectors of {key}", labels, tensor)


def _show_rows(console: Console, label: str, tensor: "Tensor") -> None:
    """Prints the norms and cosines of vectors (n, width) that no vocabulary stands beside."""
    rows = tensor.detach().float().reshape(-1, tensor.shape[-1])
    say(console, f"\nVectors of {label}, {rows.shape[1]} wide")
    console.print(_vectors_table(rows, None))
    if len(rows) > 1:
        labels = [str(number) for number in range(len(rows))]
        _show_cosines(console, f"Cosines between the vectors of {label}", labels, rows)


def _show_together(console: Console, embeddings: Sequence[Embedding]) -> None:
    """Prints the cosines between the mean vectors of embeddings of the same encoder and width."""
    from torch import stack

    for key, width in dict.fromkeys(item for one in embeddings for item in one.widths.items()):
        alike = [one for one in embeddings if one.widths.get(key) == width]
        if len(alike) > 1:
            means = stack([one.vectors[key].mean(dim=0) for one in alike])
            title = f"Cosines between the mean vectors of {key}"
            _show_cosines(console, title, [one.name for one in alike], means)


def _vectors_table(tensor: "Tensor", vocabulary: "Vocabulary | None") -> Table:
    from lab.models.vocabulary import nearest_tokens, norm_percentiles, norm_quartiles, shown_token

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
        tokens = Text(", ".join(f"{shown_token(token)} {cosine:.2f}" for token, cosine in near))
        table.add_row(str(number), norm, f"{share:.0f} % of tokens", tokens)
    return table


def _show_cosines(console: Console, title: str, labels: Sequence[str], vectors: "Tensor") -> None:
    from lab.models.vocabulary import cosines

    if len(labels) > MOST_COMPARED:
        say(console, f"{title}: left out, as there are {len(labels):,}")
        return
    values = cosines(vectors)
    if len(labels) > LARGEST_MATRIX:
        pairs = values[values.new_ones(values.shape).tril(-1).bool()]
        say(console, f"{title}: {pairs.min():.2f} to {pairs.max():.2f}, median {pairs.median():.2f}")
        return
    say(console, f"\n{title}")
    table = Table()
    for heading in ("", *labels):
        table.add_column(Text(heading), overflow="fold")
    for label, row in zip(labels, values.tolist(), strict=True):
        table.add_row(Text(label), *(f"{value:.2f}" for value in row))
    console.print(table)

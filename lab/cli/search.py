"""`lab search`: what is near a text, an image or an embedding."""

from typing import Annotated

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from lab.cli.flags import ConfigFlag, ModelFlags, given
from lab.files import check_writable
from lab.models.config import ModelOptions
from lab.models.facts import read_facts
from lab.search.config import SearchConfig, SearchOptions
from lab.terminal import Bars, make_console
from lab.text import counted

SearchFlags = Annotated[SearchOptions, Parameter(name="*", group="What to look for, and where")]


def search(
    *,
    what: SearchFlags = SearchOptions(),
    model: ModelFlags = ModelOptions(),
    config: ConfigFlag = None,
) -> None:
    """Find the nearest prompts, images, embeddings or vocabulary tokens."""
    settings = SearchConfig.read(config, given(what, model))
    if settings.index is not None:
        check_writable(settings.index, "--index")
    with Bars() as bars:
        facts = read_facts(settings, bars, without_vae=True)
        from lab.models.load import load_options
        from lab.models.vocabulary import shown_token
        from lab.search.search import search as run

        bundle = load_options(settings, bars, facts, text_only=True)
        result = run(bundle, settings, listener=bars)
    console = make_console()
    if settings.index is not None:
        console.print(
            f"{settings.index}: {counted(len(result.index.rows), 'row')}, {result.added} of them new",
            markup=False,
        )
    score = "distance" if result.index.kind == "flat-l2" else "cosine"
    for query, hits in result.hits.items():
        table = Table(score, "what", "which", "where", title=Text(f"near {query}"), title_justify="left")
        for row, value in hits:
            where = "" if row.source == row.text else row.source
            which = shown_token(row.text) if row.kind == "token" else row.text
            table.add_row(f"{value:.3f}", row.kind, Text(which), Text(where))
        console.print(table)

"""Embeddings: those that are served as cards, a file that is dropped in, and either in another layout."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from lab.embeddings.embedding import CLIP_NORM, Embedding, norms_apart
from lab.embeddings.facts import check_fits, facts
from lab.embeddings.layouts import LAYOUTS, READ, WRITABLE
from lab.embeddings.read import read_all
from lab.errors import InputError
from lab.judging.config import card_beside
from lab.models.vocabulary import Vocabulary, nearest_tokens, shown_token, vocabularies
from lab.runs.pages import template
from lab.serve.page.play import QUIET, said
from lab.serve.page.studio import without_folder
from lab.serve.service import Service

MOST_CARDS = 60
"""Embeddings that are shown."""

MOST_VECTORS = 16
"""Vectors of an embedding whose nearest words are shown."""

NEAREST = 5
"""Words for each of them."""


@dataclass(frozen=True)
class Card:
    """What a card shows of an embedding.

    Attributes:
        tool: Whose layout its file has.
        about: Its facts by their labels; of one label the last.
        warnings: What a person should know before using it.
        verdict: What `lab judge` found of it, in sentences.
        words: By encoder, of each vector its norm and the words nearest to it.
    """

    name: str
    tool: str
    about: Mapping[str, str]
    warnings: Sequence[str]
    verdict: Sequence[str]
    words: Mapping[str, Sequence[tuple[float, str]]]


class ShelfTab:
    """The tab, built within the `gr.Blocks` that are open."""

    def __init__(self, service: Service, page: gr.Blocks):
        self._service = service
        self._vocabularies = vocabularies(service.bundle)
        with gr.Row(elem_classes="two"):
            with gr.Column(scale=5, min_width=320):
                dropped = gr.File(
                    label="A file to inspect",
                    show_label=False,
                    file_types=list(READ),
                    height=64,
                    elem_id="file",
                )
                found = gr.HTML(elem_id="inspected")
            with gr.Column(scale=5, min_width=320):
                with gr.Row(elem_classes="actions"):
                    name = gr.Dropdown([], label="Embedding", min_width=120, elem_id="which")
                    layout = gr.Dropdown(
                        list(WRITABLE),
                        label="In the layout of", value="kohya", min_width=120, elem_id="layout",
                    )  # fmt: skip
                    write = gr.Button("Write", min_width=90, elem_id="write")
                told = gr.HTML(elem_id="written")
                file = gr.DownloadButton("Download", visible=False, elem_id="download", variant="primary")
        cards = gr.HTML(elem_id="cards")
        page.load(self._offered, None, [cards, name], **QUIET)
        dropped.change(self._inspect, dropped, found, **QUIET)
        write.click(self._write, [dropped, name, layout], [told, file], **QUIET)

    def _offered(self) -> tuple[str, Any]:
        """The cards of what is served, and their names to choose from."""
        names = list(self._service.library)
        cards, problems = [], []
        for name in names[:MOST_CARDS]:
            try:
                cards.append(self._card(self._service.library[name]))
            except InputError as error:
                problems.append(str(error))
        html = _rendered(cards=cards, problems=problems, more=len(names[MOST_CARDS:]), served=True)
        return html, gr.update(
            choices=["the dropped file", *names], value=names[0] if names else "the dropped file"
        )

    def _inspect(self, file: str | None) -> str:
        """The cards of what a dropped file holds."""
        if file is None:
            return ""
        try:
            cards, problems = [self._card(one) for one in read_all(file)], []
        except InputError as error:
            cards, problems = [], [without_folder(error, Path(file))]
        return _rendered(cards=cards, problems=problems, more=0, served=False)

    def _card(self, embedding: Embedding) -> Card:
        about = dict(facts(embedding))
        warnings = [value for label, value in facts(embedding) if label == "note"]
        try:
            check_fits(embedding, self._service.bundle.facts)
        except InputError as error:
            warnings.append(str(error))
        for key, rows in embedding.vectors.items():
            vocabulary = self._vocabularies.get(key)
            usual = float(vocabulary.table.norm(dim=1).median()) if vocabulary else CLIP_NORM
            if rows.any() and (apart := norms_apart(rows, usual)):
                warnings.append(f"the vectors of {key} have {apart}")
        card = card_beside(embedding)
        judged = card and (card.get("file") or {}).get("sha256") == embedding.provenance.sha256
        verdict = list(map(str, card["sentences"])) if card and judged else []
        layout = LAYOUTS.get(embedding.provenance.layout)
        tool = layout.label if layout else embedding.provenance.layout
        return Card(embedding.name, tool, about, warnings, verdict, self._words(embedding))

    def _words(self, embedding: Embedding) -> dict[str, list[tuple[float, str]]]:
        found: dict[str, list[tuple[float, str]]] = {}
        for key, rows in embedding.vectors.items():
            vocabulary: Vocabulary | None = self._vocabularies.get(key)
            if vocabulary is None or vocabulary.table.shape[1] != rows.shape[1]:
                continue
            some = rows[:MOST_VECTORS]
            near = nearest_tokens(some, vocabulary, NEAREST)
            lines = [", ".join(shown_token(one.token) for one in each) for each in near]
            found[key] = list(zip(some.norm(dim=1).tolist(), lines, strict=True))
        return found

    def _write(self, dropped: str | None, name: str, layout: str) -> tuple[str, Any]:
        """Writes an embedding in a layout, to be downloaded."""
        written = [Path(dropped)] if dropped else []
        try:
            if name in self._service.library:
                embedding = self._service.library[name]
            elif dropped is not None:
                embedding = read_all(dropped)[0]
            else:
                raise InputError("there is no file; drop one, or choose an embedding that is served")
            if layout not in WRITABLE:
                raise InputError("the layout is none that is written; choose one")
            folder = Path(tempfile.mkdtemp(dir=os.environ["GRADIO_TEMP_DIR"]))
            file = folder / f"{Path(embedding.name).name}{WRITABLE[layout].suffixes[0]}"
            written.append(file)
            embedding.save(file, layout)
        except InputError as error:
            return said(problem=without_folder(error, *written)), gr.update(visible=False)
        return "", gr.update(value=str(file), label=f"Download {file.name}", visible=True)


def _rendered(**values: Any) -> str:
    return template("lab.serve.page", "cards.html").render(**values)

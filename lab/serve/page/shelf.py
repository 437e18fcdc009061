"""Embeddings: those that are served as cards, with what was made with them, a file that is dropped in, and any of them
in another layout, or several as one."""

import os
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path
from typing import Any

import gradio as gr

from lab.embeddings.embedding import CLIP_NORM, Embedding, norms_apart
from lab.embeddings.facts import check_fits, facts
from lab.embeddings.layouts import LAYOUTS, READ, WRITABLE
from lab.embeddings.merge import METHODS, merge
from lab.embeddings.read import read_all
from lab.errors import InputError
from lab.files import portable_name
from lab.judging.config import card_beside
from lab.models.vocabulary import Vocabulary, nearest_tokens, shown_token, vocabularies
from lab.runs.run import RunFolder
from lab.serve.answers import what_went_wrong
from lab.serve.job import Job
from lab.serve.jobs import Jobs
from lab.serve.page.parts import QUIET, rendered, said_of
from lab.serve.service import Service

MOST_CARDS = 60
"""Embeddings that are shown."""

MOST_VECTORS = 16
"""Vectors of an embedding whose nearest words are shown."""

NEAREST = 5
"""Words for each of them."""

MOST_LOOKED_AT = 500
"""Jobs, and images that were made or saved one by one, that are asked what they were made with: the newest."""

MOST_JOBS = 5
"""Jobs that a card names."""

MADE = {
    "generate": ("images", "index.html"),
    "compare": ("a comparison", "report.html"),
    "train": ("a training", "index.html"),
}
"""What people call what a kind of job makes, and the page among its files that shows it."""

DROPPED = "the dropped file"


@dataclass(frozen=True)
class Card:
    """What a card shows of an embedding.

    Attributes:
        tool: Whose layout its file has.
        about: Its facts by their labels; of one label the last.
        warnings: What a person should know before using it.
        verdict: What `lab judge` found of it, in sentences.
        words: By encoder, of each vector its norm and the words nearest to it.
        images: How many of the newest images were made with it.
        jobs: What of the newest jobs was made with it, and where it is to be seen.
        more: How many jobs besides.
    """

    name: str
    tool: str
    about: Mapping[str, str]
    warnings: Sequence[str]
    verdict: Sequence[str]
    words: Mapping[str, Sequence[tuple[float, str]]]
    images: int
    jobs: Sequence[tuple[str, str]]
    more: int


class Uses:
    """What of the newest that the server made was made with which embedding, by the hash of its file."""

    def __init__(self, out: Path, jobs: Sequence[Job]):
        """Looks through the server's folder and its jobs."""
        self.images: Counter[str] = Counter()
        self.jobs: dict[str, list[Job]] = defaultdict(list)
        for job in jobs[:MOST_LOOKED_AT]:
            for digest in _digests(RunFolder(job.run).contents):
                self.jobs[digest].append(job)
        records = (*out.glob("page/*/*.json"), *out.glob("saved/*.json"))
        for record in nlargest(
            MOST_LOOKED_AT, records, key=lambda file: file.name
        ):  # which begins with the time
            self.images.update(_digests(record))


class ShelfTab:
    """The tab, built within the `gr.Blocks` and the `gr.Tab` that are open."""

    def __init__(self, service: Service, jobs: Jobs, tab: gr.Tab):
        self._service = service
        self._options = service.config
        self._jobs = jobs
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
                names = gr.Dropdown(
                    [], label="Embedding to convert, or several to merge", multiselect=True, elem_id="which"
                )
                with gr.Row(visible=False) as merging:
                    method = gr.Dropdown(
                        list(METHODS), value="average", label="Merge by", min_width=110, elem_id="method"
                    )
                    weights = gr.Textbox(
                        label="Weights", placeholder="1, 1, ...", min_width=110, elem_id="weights"
                    )
                    called = gr.Textbox("merged", label="Name", min_width=110, elem_id="called")
                with gr.Row(elem_classes="actions"):
                    layout = gr.Dropdown(
                        list(WRITABLE),
                        label="In the layout of", value="kohya", min_width=120, elem_id="layout",
                    )  # fmt: skip
                    write = gr.Button("Convert", min_width=90, elem_id="write")
                told = gr.HTML(elem_id="written")
                file = gr.DownloadButton("Download", visible=False, elem_id="download", variant="primary")
        cards = gr.HTML(elem_id="cards")
        tab.select(self._served, None, cards, **QUIET)
        tab.select(self._choices, [names, dropped], names, **QUIET)
        dropped.change(self._inspect, dropped, found, **QUIET)
        dropped.change(self._choices_with, [names, dropped], names, **QUIET)
        names.change(self._several, names, [merging, write], **QUIET)
        write.click(self._write, [dropped, names, method, weights, called, layout], [told, file], **QUIET)

    def _choices(self, chosen: list[str], dropped: str | None) -> Any:
        """The names to choose from, as far as there are such; at first, and without what was chosen, the first one."""
        names = [*self._service.library, *([DROPPED] if dropped else [])]
        return gr.update(choices=names, value=[name for name in chosen or () if name in names] or names[:1])

    def _choices_with(self, chosen: list[str], dropped: str | None) -> Any:
        """The same once a file was dropped, which is chosen in the place of a single one and joins several."""
        several = [*chosen, DROPPED] if len(chosen or ()) > 1 else [DROPPED]
        return self._choices(several if dropped else chosen, dropped)

    def _several(self, chosen: list[str]) -> tuple[Any, Any]:
        """What is shown to merge several, and what is done with what was chosen."""
        several = len(chosen or ()) > 1
        return gr.update(visible=several), "Merge" if several else "Convert"

    def _served(self) -> str:
        """The cards of what is served."""
        names = list(self._service.library)
        cards, problems, uses = [], [], self._uses()
        for name in names[:MOST_CARDS]:
            try:
                cards.append(self._card(self._service.library[name], uses))
            except InputError as error:
                problems.append(what_went_wrong(error, self._options))
        return rendered(
            "cards.html", cards=cards, problems=problems, more=len(names[MOST_CARDS:]), served=True
        )

    def _inspect(self, file: str | None) -> str:
        """The cards of what a dropped file holds."""
        if file is None:
            return ""
        try:
            uses = self._uses()
            cards, problems = [self._card(one, uses) for one in read_all(file)], []
        except InputError as error:
            cards, problems = [], [what_went_wrong(error, self._options, Path(file))]
        return rendered("cards.html", cards=cards, problems=problems, more=0, served=False)

    def _uses(self) -> Uses:
        return Uses(self._options.out, self._jobs.all())

    def _card(self, embedding: Embedding, uses: Uses) -> Card:
        about = dict(facts(embedding))
        warnings = [value for label, value in facts(embedding) if label == "note"]
        try:
            check_fits(embedding, self._service.bundle.facts)
        except InputError as error:
            warnings.append(what_went_wrong(error, self._options))
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
        made = uses.jobs.get(digest := embedding.provenance.sha256, [])
        return Card(
            embedding.name,
            tool,
            about,
            warnings,
            verdict,
            self._words(embedding),
            uses.images[digest],
            [(MADE[job.record.kind][0], _address(job)) for job in made[:MOST_JOBS]],
            len(made[MOST_JOBS:]),
        )

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

    def _write(
        self, dropped: str | None, names: list[str], method: str, weights: str, called: str, layout: str
    ) -> tuple[str, Any]:
        """Writes an embedding, or several as one, in a layout, to be downloaded."""
        written = [Path(dropped)] if dropped else []
        try:
            chosen = [self._named(name, dropped) for name in names or ()]
            if not chosen:
                raise InputError("there is none; choose an embedding")
            embedding = _merged(chosen, method, weights, called) if len(chosen) > 1 else chosen[0]
            if layout not in WRITABLE:
                raise InputError("the layout is none that is written; choose one")
            folder = Path(tempfile.mkdtemp(dir=os.environ["GRADIO_TEMP_DIR"]))
            file = folder / f"{portable_name(embedding.name)}{WRITABLE[layout].suffixes[0]}"
            written.append(file)
            embedding.save(file, layout)
            cards = [self._card(read_all(file)[0], self._uses())] if len(chosen) > 1 else []
        except InputError as error:
            return said_of(error, self._options, *written), gr.update(visible=False)
        download = gr.update(value=str(file), label=f"Download {file.name}", visible=True)
        return rendered("cards.html", cards=cards, problems=[], more=0, served=False), download

    def _named(self, name: str, dropped: str | None) -> Embedding:
        if name in self._service.library:
            return self._service.library[name]
        if dropped is None:
            raise InputError("there is no file; drop one, or choose an embedding that is served")
        return read_all(dropped)[0]


def _merged(embeddings: Sequence[Embedding], method: str, weights: str, called: str) -> Embedding:
    """One embedding of several, as the form says.

    Raises:
        InputError: weights that are no numbers, a name that no file can have, or what cannot be merged.
    """
    try:
        numbers = [float(each) for each in (weights or "").replace(",", " ").split()]
    except ValueError:
        raise InputError(
            f"weights: '{weights[:40]}' are no numbers; write one for each, such as 1, 0.5"
        ) from None
    if not re.fullmatch(r"\w[\w .-]{0,80}", called or ""):
        raise InputError(
            f"name: '{(called or '')[:40]}' is none for a file; use letters, digits, '-' and '_'"
        )
    return merge(embeddings, numbers or None, method, called)


def _address(job: Job) -> str:
    """Where what a job made is to be seen; empty as long as it is not."""
    page = MADE[job.record.kind][1]
    return f"/lab/v1/jobs/{job.record.id}/files/{page}" if (job.run / page).is_file() else ""


def _digests(file: Path) -> set[str]:
    """The sha256 that a file names, of a run's contents or in an image's record."""
    try:
        return set(re.findall(r"\b[0-9a-f]{64}\b", file.read_text(errors="replace")))
    except OSError:  # a run that has not begun, or an image that was removed meanwhile
        return set()

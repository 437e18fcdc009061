"""The images of an experiment: its cells checked, planned and made, those of each model together."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from accelerate import PartialState

from lab.comparing.experiment import Cell, Experiment
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.models.config import ModelOptions
from lab.models.facts import ModelFacts, read_facts
from lab.models.load import load_options
from lab.runs.run import RunFolder, text_digest
from lab.sample.config import Request
from lab.sample.generate import make_images
from lab.sample.plan import Job, check_requests, plan
from lab.sample.record import FILES, file_digests
from lab.sample.settings import check_requests_by_configs
from lab.text import counted

SLAB = 256
"""Images whose prompts are encoded together; more would only take memory."""


def check_cells(bundle: Bundle, experiment: Experiment) -> tuple[dict[int, tuple[int, int]], dict[str, str]]:
    """Finds what would fail later: settings that a model cannot serve, texts and embeddings that it cannot read.

    Returns:
        The images' width and height by the index of their variant, and a digest of each thing that they are made
        from beside their settings, by what it is, as `RunFolder.open` takes them.

    Raises:
        InputError: what fails, in the words of whoever would have raised it.
    """
    sizes: dict[int, tuple[int, int]] = {}
    contents: dict[str, str] = {}
    for model, cells in by_model(bundle, experiment, experiment.cells):
        for of_library in _by_library(cells):
            requests = [_request(cell) for cell in of_library]
            checked = check_requests(model, requests, experiment.library(of_library[0].options))
            for cell, settings in zip(of_library, checked, strict=True):
                sizes[cell.variant.index] = settings.width, settings.height
        of = "" if model is bundle else f" of {model.source}"
        contents |= {f"{what}{of}": digest for what, digest in model.contents().items()}
    return sizes, contents | _file_digests(experiment)


def check_cells_by_configs(
    facts: ModelFacts, experiment: Experiment, listener: Listener = Listener()
) -> None:
    """Refuses, before any weights are read, what a model cannot serve because of its configs.

    Args:
        facts: Of the run's own model; those of a `model` axis are read here.

    Raises:
        InputError: what does not fit.
    """
    by_source: dict[str, list[Cell]] = {}
    for cell in experiment.cells:
        by_source.setdefault(_source(cell), []).append(cell)
    for source, cells in by_source.items():
        own = source in (facts.source, "")
        model = facts if own else read_facts(_model_options(experiment, source), listener)
        for alike in _by_library(cells):
            library = experiment.library(alike[0].options)
            check_requests_by_configs(model, [_request(cell) for cell in alike], library, listener)


def make_cells(
    bundle: Bundle,
    experiment: Experiment,
    folder: RunFolder,
    state: PartialState,
    listener: Listener = Listener(),
    cells: Sequence[Cell] = (),
) -> dict[int, Path]:
    """Makes the images that the folder lacks, each process its share of them.

    Args:
        cells: Those whose images are made; by default all.

    Returns:
        The files of all images that there are, by the index of their cell.

    Raises:
        InputError: too little memory, or a folder that cannot be written.
    """
    finished = folder.finished()
    wanted = {cell.picture for cell in cells or experiment.cells}
    missing = [experiment.cells[index] for index in wanted if index not in finished]
    there = len(wanted) - len(missing)
    if there and not cells:
        listener.note(f"{folder.path}: {counted(there, 'image')} there already; going on with the rest.")
    state.wait_for_everyone()  # everybody looks before anybody writes
    # Pairs come together with all their variants, so that what an interrupted run leaves can be compared.
    missing.sort(key=lambda cell: (cell.pair, cell.index))
    with state.split_between_processes(missing) as mine:
        share = _Share(listener, len(mine))
        for model, cells in by_model(bundle, experiment, mine):
            for start in range(0, len(cells), SLAB):
                slab = cells[start : start + SLAB]
                make_images(model, plan_cells(model, experiment, slab), folder, share)
                share.done += len(slab)
    state.wait_for_everyone()
    return folder.finished()


def plan_cells(bundle: Bundle, experiment: Experiment, cells: Sequence[Cell]) -> list[Job]:
    """The jobs of cells that one model makes, in their order.

    Raises:
        InputError: see `lab.sample.plan.plan`.
    """
    jobs: dict[int, Job] = {}
    for of_library in _by_library(cells):
        library = experiment.library(of_library[0].options)
        jobs |= {job.index: job for job in plan(bundle, [_request(cell) for cell in of_library], library)}
    return [jobs[cell.index] for cell in cells]


def by_model(
    bundle: Bundle, experiment: Experiment, cells: Sequence[Cell]
) -> Iterator[tuple[Bundle, list[Cell]]]:
    """Yields each model with the cells that it makes, one model in memory at a time beside the bundle.

    Raises:
        InputError: a model of an axis that cannot be loaded.
    """
    for source, of_model in groupby(sorted(cells, key=_source), key=_source):
        yield _model_for(bundle, experiment, source), list(of_model)


def is_own(bundle: Bundle, cell: Cell) -> bool:
    """Whether the bundle itself makes a cell, and not another model of an axis."""
    return _source(cell) in (bundle.source, "")


class _Share(Listener):
    """Passes on the progress of some images as that of all of a process' share.

    Attributes:
        done: Images of the share that were made before.
    """

    def __init__(self, listener: Listener, total: int):
        self._listener = listener
        self._total = total
        self.done = 0

    def note(self, line: str) -> None:
        self._listener.note(line)

    def progress(self, done: float, total: int, things: str = "images") -> None:
        self._listener.progress(self.done + done, self._total, things)


def _request(cell: Cell) -> Request:
    return Request(cell.index, cell.prompt, cell.options.negative_prompt, cell.seed, cell.options)


def _by_library(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells whose prompts may name the same embeddings, which saved steps of one name need."""
    alike: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        alike.setdefault(tuple(cell.options.embedding), []).append(cell)
    return list(alike.values())


def _source(cell: Cell) -> str:
    return cell.options.model if "model" in cell.options.model_fields_set else ""


def _model_for(bundle: Bundle, experiment: Experiment, source: str) -> Bundle:
    """The bundle itself, or for another model that one, loaded with the experiment's options."""
    if source in (bundle.source, ""):
        return bundle
    options = _model_options(experiment, source)
    return load_options(options.model_copy(update={"device": str(bundle.device)}))


def _model_options(experiment: Experiment, source: str) -> ModelOptions:
    options = {name: getattr(experiment.config, name) for name in ModelOptions.model_fields}
    return ModelOptions.build(options | {"model": source})


def _file_digests(experiment: Experiment) -> dict[str, str]:
    """Digests of the embeddings, init images and other files that the images are made from, by what they are."""
    digests: dict[str, set[str]] = {}
    for cell in experiment.pictures:
        for embedding in cell.embeddings:
            digests.setdefault(f"embedding {embedding.name}", set()).add(embedding.provenance.sha256)
        for name, digest in file_digests(cell.options).items():
            digests.setdefault(FILES[name], set()).add(digest)
    # One name may stand for several files: the saved steps of a training run.
    return {
        what: found.pop() if len(found) == 1 else text_digest(" ".join(sorted(found)))
        for what, found in digests.items()
    }

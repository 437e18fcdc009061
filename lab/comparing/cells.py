"""Makes the images of an experiment: streamed to disk, resumed, shared by processes."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from accelerate import PartialState

from lab.comparing.experiment import Cell, Experiment
from lab.condition.encode import PromptEncoder
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.models.config import ModelOptions
from lab.models.load import load_options
from lab.runs.run import RunFolder
from lab.sample.config import GenerateConfig, SamplingOptions
from lab.sample.engine import Note, Progress, run_jobs
from lab.sample.plan import Job, Request, plan
from lab.sample.record import make_record, parameters_text
from lab.sample.settings import Settings, resolve

SLAB = 256
"""Images whose prompts are encoded together; more would only take memory."""


def make_cells(
    bundle: Bundle,
    experiment: Experiment,
    folder: RunFolder,
    state: PartialState,
    on_progress: Progress | None = None,
    on_note: Note | None = None,
) -> None:
    """Makes this process' share of the images that the folder lacks.

    Raises:
        InputError: settings that a model cannot serve, or a folder that cannot be written.
    """
    finished = folder.finished()
    missing = [cell for cell in experiment.pictures if cell.index not in finished]
    state.wait_for_everyone()  # everybody looks before anybody writes
    mine = missing[state.process_index :: state.num_processes]
    done = 0
    for model, of_model in by_model(bundle, experiment, mine):
        for cells in _slabs(of_model):
            _make(model, experiment, cells, folder, _moved(on_progress, done, len(mine)), on_note)
            done += len(cells)


def plan_cells(bundle: Bundle, cells: Sequence[Cell]) -> list[Job]:
    """Jobs for cells of one model: each distinct text is encoded once for each way of reading it."""
    jobs: dict[int, Job] = {}
    for alike in _ways(cells):
        used = {each.name: each for cell in alike for each in cell.used}
        asked = [
            Request(cell.index, cell.prompt, cell.options.negative_prompt, cell.seed, cell.options)
            for cell in alike
        ]
        jobs |= {job.index: job for job in plan(bundle, asked, used)}
    return [jobs[cell.index] for cell in cells]


def check_cells(bundle: Bundle, cells: Sequence[Cell]) -> dict[int, tuple[int, int]]:
    """Finds what would fail later: settings that a model cannot serve, texts and embeddings that it cannot read.

    Returns:
        The images' width and height, by the index of their variant.

    Raises:
        InputError: what fails, in the words of whoever would have raised it.
    """
    settings = _settings(bundle, cells)
    sizes = {}
    for cell in cells:
        own = settings[id(cell.options)]
        sizes[cell.variant.index] = own.width, own.height
    for alike in _ways(cells):
        (job,) = plan_cells(bundle, alike[:1])
        used = {each.name: each for cell in alike for each in cell.used}
        encoder = PromptEncoder(bundle, used, alike[0].options, job.settings.steps)
        texts = [text for cell in alike for text in (cell.prompt, cell.options.negative_prompt or "")]
        for text in dict.fromkeys(texts):
            for timeline in encoder.read(text):
                for variant in timeline.variants:
                    encoder.chunks(variant)
    return sizes


def _ways(cells: Sequence[Cell]) -> Iterable[list[Cell]]:
    """Cells whose texts are read and encoded alike."""
    ways: dict[str, list[Cell]] = {}
    for cell in cells:
        ways.setdefault(_way(cell.options), []).append(cell)
    return ways.values()


def _settings(bundle: Bundle, cells: Sequence[Cell]) -> dict[int, Settings]:
    """The settings by the ids of the cells' options; what is sampled alike is resolved once."""
    known: dict[str, Settings] = {}
    found: dict[int, Settings] = {}
    for cell in cells:
        if id(cell.options) not in found:
            key = cell.options.model_dump_json(include=set(SamplingOptions.model_fields))
            found[id(cell.options)] = known.get(key) or known.setdefault(key, resolve(bundle, cell.options))
    return found


def by_model(
    bundle: Bundle, experiment: Experiment, cells: Sequence[Cell]
) -> Iterator[tuple[Bundle, list[Cell]]]:
    """Cells with the model that makes them, one model in memory at a time beside the bundle."""
    for source, of_model in groupby(sorted(cells, key=_model), key=_model):
        yield _model_for(bundle, experiment, source), list(of_model)


def is_own(bundle: Bundle, cell: Cell) -> bool:
    """Whether the bundle itself makes a cell, and not another model of an axis."""
    return _model(cell) in (bundle.source, "")


def _model_for(bundle: Bundle, experiment: Experiment, source: str) -> Bundle:
    """The bundle itself, or for another model that one, loaded with the experiment's options."""
    if source in (bundle.source, ""):
        return bundle
    options = {name: getattr(experiment.config, name) for name in ModelOptions.model_fields}
    return load_options(ModelOptions.build(options | {"model": source, "device": str(bundle.device)}))


def _make(
    bundle: Bundle,
    experiment: Experiment,
    cells: Sequence[Cell],
    folder: RunFolder,
    on_progress: Progress | None,
    on_note: Note | None,
) -> None:
    jobs = plan_cells(bundle, cells)
    for sample in run_jobs(bundle, jobs, experiment.config.batch_size, _Heard(on_progress, on_note)):
        record = make_record(bundle, sample.job)
        folder.save(sample.job.index, sample.image, record, parameters_text(record))


def _model(cell: Cell) -> str:
    return cell.options.model if "model" in cell.options.model_fields_set else ""


def _slabs(cells: Sequence[Cell]) -> Iterator[Sequence[Cell]]:
    """Pairs come together with all their variants, so that what an interrupted run leaves can be compared."""
    ordered = sorted(cells, key=lambda cell: (cell.pair, cell.index))
    for start in range(0, len(ordered), SLAB):
        yield ordered[start : start + SLAB]


def _way(options: GenerateConfig) -> str:
    """What decides how a text is read and encoded."""
    names = {"dialect", "weighting", "clip_skip", "embedding", "bare_names", "comma_backtrack", "steps"}
    return options.model_dump_json(include=names)


def _moved(on_progress: Progress | None, done: int, total: int) -> Progress | None:
    if on_progress is None:
        return None
    return lambda some, _: on_progress(done + some, total)


class _Heard(Listener):
    """Passes on what is heard to two callbacks."""

    def __init__(self, on_progress: Progress | None, on_note: Note | None):
        self.progress = on_progress or super().progress  # type: ignore[method-assign,assignment]
        self.note = on_note or super().note  # type: ignore[method-assign,assignment]

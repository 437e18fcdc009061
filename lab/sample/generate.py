"""`lab.generate`: prompts x seeds to images with their records, in memory or streamed to a folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.embeddings.library import Sources, collect
from lab.errors import InputError
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.models.config import ModelOptions
from lab.runs.overview import write_overview
from lab.runs.run import RunFolder, run_digest
from lab.sample.config import GenerateConfig
from lab.sample.engine import run_jobs
from lab.sample.plan import Job, plan, requests
from lab.sample.record import BY_CONTENT, contents, make_record, parameters_text
from lab.sample.results import Result, Results


def generate(
    bundle: Bundle,
    config: GenerateConfig | None = None,
    *,
    embeddings: Sources = (),
    listener: Listener = Listener(),
    **settings: Any,
) -> Results:
    """Makes every prompt with every seed.

    Args:
        config: What to make and how; its model options are ignored, as the bundle is loaded.
        embeddings: What the prompts may name: `Embedding` values, files, folders.
        listener: Hears of images made, and when memory runs out.
        settings: Fields of `lab.GenerateConfig`, on top of `config`; `prompt` may be one or a list, `seeds` a list
            or text such as "1-4,9". With `out`, a folder, images are written as soon as they are finished, the same
            call goes on where it was interrupted, and there are a contact sheet and an index.html.

    Returns:
        One result an image: prompt-major, then seeds.

    Raises:
        InputError: unknown or bad settings, text that names an embedding which is not there, or an `out` that holds
            another run, is in use or cannot be written.
    """
    for name in settings:
        if name in ModelOptions.model_fields:
            raise InputError(f"options: '{name}' does not apply to a loaded bundle; give it to lab.load")
    config = GenerateConfig.build({**(config.given() if config else {}), **settings})
    library = collect(embeddings, config.embedding, config.embeddings)
    jobs = plan(bundle, requests(config), library)
    if config.out is not None:
        return _generate_to_disk(bundle, config, jobs, config.out, listener)
    made = run_jobs(bundle, jobs, config.batch_size, listener)
    results = (
        Result(sample.job.index, sample.latents, sample.image, make_record(bundle, sample.job))
        for sample in made
    )
    return Results(sorted(results, key=lambda result: result.index))


def generate_to_disk(bundle: Bundle, config: GenerateConfig, listener: Listener = Listener()) -> Results:
    """`generate` into a folder: `config.out`, or one under outputs/ that what the run is made of names.

    Raises:
        InputError: see `generate`.
    """
    jobs = plan(bundle, requests(config))
    out = config.out
    if out is None:
        digest = run_digest(_stored(config), contents(bundle, jobs), BY_CONTENT)
        out = Path("outputs", f"generate-{digest[:8]}")
    return _generate_to_disk(bundle, config, jobs, out, listener)


def make_images(
    bundle: Bundle, jobs: Sequence[Job], folder: RunFolder, listener: Listener = Listener()
) -> dict[int, Path]:
    """Makes the images that a run's folder lacks, each on disk as soon as it is finished.

    Returns:
        The files of all jobs' images by their index.

    Raises:
        InputError: too little memory, or a folder that cannot be written.
    """
    paths = {job.index: folder.image_path(job.index, job.seed, job.positive.prompt) for job in jobs}
    waiting = [job for job in jobs if not paths[job.index].is_file()]
    if len(waiting) < len(jobs):
        there = len(jobs) - len(waiting)
        listener.note(f"{folder.path}: {there} images are there already; going on with the rest.")
    batch_size = jobs[0].request.options.batch_size if jobs and jobs[0].request else "auto"
    for sample in run_jobs(bundle, waiting, batch_size, listener):
        record = make_record(bundle, sample.job)
        folder.save(sample.job.index, sample.image, record, parameters_text(record))
    return paths


def _generate_to_disk(
    bundle: Bundle, config: GenerateConfig, jobs: Sequence[Job], out: Path, listener: Listener
) -> Results:
    with RunFolder(out).locked():
        folder = RunFolder.open(out, _stored(config), contents(bundle, jobs), BY_CONTENT)
        files = make_images(bundle, jobs, folder, listener)
        write_overview(folder, files)
    return Results((Result(job.index, path=files[job.index]) for job in jobs), out)


def _stored(config: GenerateConfig) -> str:
    """The config as the run's folder keeps it: without what changes no image."""
    return config.model_copy(update={"out": None, "batch_size": "auto"}).to_yaml()

"""`lab.generate`: prompts x seeds to images with their records, in memory or streamed to a folder."""

import base64
import html
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from accelerate import PartialState
from PIL import Image
from torch import Tensor

from lab.embeddings.library import Sources
from lab.errors import InputError
from lab.images import open_image
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.models.config import check_for_loaded
from lab.runs.pages import write_overview
from lab.runs.png import ImageWriters, record_beside
from lab.runs.run import RunFolder, run_digest
from lab.sample.config import GenerateConfig, parse_seeds, requests
from lab.sample.engine import run_jobs
from lab.sample.plan import Job, plan
from lab.sample.record import BY_CONTENT, contents, make_record, parameters_text
from lab.sample.walk import Walk, plan_walk, write_animations
from lab.text import counted

SHOWN = 48
"""Images of a list that a notebook shows."""

NOTES = 10
"""Notes on prompts that a run tells."""

DEAD_NEGATIVE = (
    "without guidance the negative prompt takes no part; it acts at a --guidance above 1, or by --negative-method nag, "
    "negpip or vsf"
)

THUMBNAIL = 192
"""Pixels of the longer side of an image that a notebook shows among others."""


class Result:
    """One generated image. In a notebook it shows itself.

    Attributes:
        index: Its place: prompt-major, then seeds.
        latents: (c, h, w) float32 on the CPU, or None for an image that went to disk.
        path: The PNG on disk, or None for an image in memory.
    """

    def __init__(
        self,
        index: int,
        latents: Tensor | None = None,
        image: Image.Image | None = None,
        record: dict[str, Any] | None = None,
        path: Path | None = None,
    ):
        """Takes image and record, or the path where both are; they are read when they are asked for."""
        self.index = index
        self.latents = latents
        self.path = path
        self._image = image
        self._record = record

    @property
    def image(self) -> Image.Image:
        """The image, RGB; one on disk is opened anew each time, so that thousands need no memory.

        Raises:
            InputError: the file is gone or damaged.
        """
        if self._image is not None:
            return self._image
        assert self.path is not None
        return open_image(self.path)

    @property
    def record(self) -> dict[str, Any]:
        """Everything that made the image, as plain JSON values.

        Raises:
            InputError: the file of one on disk is gone, damaged or was edited.
        """
        if self._record is None:
            assert self.path is not None
            self._record = record_beside(self.path)
        return self._record

    def __repr__(self) -> str:
        return f"Result({self.index}, prompt={self.record['prompt']!r}, seed={self.record['seed']})"

    def _repr_png_(self) -> bytes:
        return _png(self.image)


class Results(list[Result]):
    """The images of a run, in the order asked for. In a notebook they show themselves side by side.

    Attributes:
        folder: Where they are on disk, or None.
    """

    def __init__(self, results: Iterable[Result], folder: Path | None = None):
        super().__init__(results)
        self.folder = folder

    def _repr_html_(self) -> str:
        figures = "".join(_figure(result) for result in self[:SHOWN])
        more = f"<p>and {len(self) - SHOWN} more</p>" if len(self) > SHOWN else ""
        return f'<div style="display:flex;flex-wrap:wrap;gap:8px">{figures}</div>{more}'


def _figure(result: Result) -> str:
    small = result.image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    data = base64.b64encode(_png(small)).decode()
    prompt, seed = html.escape(result.record["prompt"]), result.record["seed"]
    return (
        f'<figure style="margin:0;width:{small.width}px">'
        f'<img src="data:image/png;base64,{data}" alt="{prompt}" title="{prompt}">'
        f'<figcaption style="overflow-wrap:anywhere">{prompt}, seed {seed}</figcaption></figure>'
    )


def _png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


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
        listener: Hears of images made, when memory runs out, and what to know about how the prompts were read.
        settings: Fields of `lab.GenerateConfig`, on top of `config`; `prompt` may be one or a list, `seeds` a list
            or text such as "1-4,9". With `out`, a folder, images are written as soon as they are finished, the same
            call goes on where it was interrupted, and there are a contact sheet and an index.html; under torchrun or
            `accelerate launch`, each process makes its share of them.

    Returns:
        One result an image: prompt-major, then seeds.

    Raises:
        InputError: unknown or bad settings, text that names an embedding which is not there, or an `out` that holds
            another run, is in use or cannot be written.
    """
    check_for_loaded(bundle, settings)
    config = GenerateConfig.build(GenerateConfig.given_with(config, settings))
    if config.walk:
        if config.out is None:
            raise InputError("out: a walk goes into a folder; give one")
        return generate_to_disk(bundle, config, listener, embeddings)
    jobs = plan(bundle, requests(config), embeddings)
    _tell_notes(jobs, listener)
    if config.out is not None:
        return _generate_to_disk(bundle, config, jobs, config.out, listener)
    made = run_jobs(bundle, jobs, config.batch_size, listener)
    results = (
        Result(sample.job.index, sample.latents, sample.image, make_record(bundle, sample.job))
        for sample in made
    )
    return Results(sorted(results, key=lambda result: result.index))


def generate_to_disk(
    bundle: Bundle, config: GenerateConfig, listener: Listener = Listener(), embeddings: Sources = ()
) -> Results:
    """`generate` into a folder: `config.out`, or one under outputs/ that what the run is made of names.

    Raises:
        InputError: as `generate`.
    """
    jobs = plan(bundle, requests(config), embeddings)
    _tell_notes(jobs, listener)
    out = config.out
    if out is None:
        digest = run_digest(_stored(bundle, config), contents(bundle, jobs), BY_CONTENT)
        out = Path("outputs", f"generate-{digest[:8]}")
    if not config.walk:
        return _generate_to_disk(bundle, config, jobs, out, listener)
    walk = Walk(bundle, config, embeddings)

    def frames() -> Sequence[Job]:
        return plan_walk(bundle, config, walk, out, embeddings, listener)

    return _generate_to_disk(bundle, config, jobs, out, listener, frames)


def _tell_notes(jobs: Sequence[Job], listener: Listener) -> None:
    """Tells each distinct note on the jobs' texts once, and that a negative prompt takes no part."""
    sides = (side for job in jobs for side in (job.positive, *([job.negative] if job.negative_acts else [])))
    notes = list(dict.fromkeys(note for side in sides for entry in side.entries for note in entry.notes))
    avoiding = (job for job in jobs if job.request.negative_prompt or job.request.options.negative_embeds)
    if not all(job.negative_acts for job in avoiding):
        notes.insert(0, DEAD_NEGATIVE)
    for note in notes[:NOTES]:
        listener.note(f"note: {note}")
    if len(notes) > NOTES:
        listener.note(f"note: and {len(notes) - NOTES} more; lab encode PROMPT tells all of a prompt's")


def share_images(
    bundle: Bundle,
    jobs: Sequence[Job],
    folder: RunFolder,
    processes: PartialState,
    listener: Listener = Listener(),
) -> dict[int, Path]:
    """Makes the images that a run's folder lacks, each process of a launch its share of them.

    Returns:
        The files of all jobs' images by their index.

    Raises:
        InputError: too little memory, or a folder that cannot be written.
    """
    paths = {job.index: folder.image_path(job.index, job.seed, job.positive.prompt) for job in jobs}
    waiting = [job for job in jobs if not _is_made(job, paths[job.index])]
    if len(waiting) < len(jobs):
        there = len(jobs) - len(waiting)
        listener.note(f"{folder.path}: {counted(there, 'image')} there already; going on with the rest.")
    processes.wait_for_everyone()  # everybody looks before anybody writes
    with processes.split_between_processes(waiting) as mine:
        make_images(bundle, mine, folder, listener)
    processes.wait_for_everyone()
    return paths


def make_images(
    bundle: Bundle, jobs: Sequence[Job], folder: RunFolder, listener: Listener = Listener()
) -> None:
    """Makes images into a run's folder, each on disk as soon as it is finished.

    Raises:
        InputError: too little memory, or a folder that cannot be written.
    """
    batch_size = jobs[0].request.options.batch_size if jobs else "auto"
    with ImageWriters() as writers:
        for sample in run_jobs(bundle, jobs, batch_size, listener):
            record = make_record(bundle, sample.job)
            writers.write(folder.save, sample.job.index, sample.image, record, parameters_text(record))


def _is_made(job: Job, path: Path) -> bool:
    """Whether a job's image is there with its record.

    Raises:
        InputError: the record is damaged or another image's.
    """
    if not (path.is_file() and path.with_suffix(".json").is_file()):
        return False
    record = record_beside(path)
    if (record["seed"], record["prompt"]) != (job.seed, job.positive.prompt):
        raise InputError(
            f"{path.with_suffix('.json')}: not the record of this image; delete {path.name}, and the same command "
            "makes both again"
        )
    return True


def _generate_to_disk(
    bundle: Bundle,
    config: GenerateConfig,
    asked: Sequence[Job],
    out: Path,
    listener: Listener,
    frames: Callable[[], Sequence[Job]] | None = None,
) -> Results:
    """Makes what was asked, or the frames that are then planned of it, in a folder that holds no other run."""
    processes = PartialState(cpu=bundle.device.type == "cpu")
    made_of = contents(bundle, asked)
    with RunFolder.shared(out, _stored(bundle, config), made_of, BY_CONTENT, processes) as folder:
        jobs = frames() if frames else asked
        files = share_images(bundle, jobs, folder, processes, listener)
        if processes.is_main_process:
            seeds = parse_seeds(config.seeds)
            animations = write_animations(out, seeds, [files[job.index] for job in jobs]) if frames else []
            write_overview(folder, files, animations)
    return Results((Result(job.index, path=files[job.index]) for job in jobs), out)


def _stored(bundle: Bundle, config: GenerateConfig) -> str:
    """The config as the run's folder keeps it: without what changes no image, with the precision that was taken."""
    kept = {"out": None, "batch_size": "auto", "dtype": bundle.precision}
    return config.model_copy(update=kept).to_yaml()

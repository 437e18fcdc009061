"""Any number of jobs through the denoising loop and the VAE, in batches as large as memory allows."""

from collections import defaultdict, deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from accelerate.utils.memory import should_reduce_batch_size
from PIL import Image
from torch import Tensor

from lab.errors import InputError
from lab.listening import Listener
from lab.models.bundle import Bundle
from lab.sample.denoise import Observer, Step, denoise
from lab.sample.pixels import decode_images
from lab.sample.plan import Job
from lab.text import counted

AUTOMATIC_BATCH = {"cpu": 32 * 16 * 16, "cuda": 32 * 64 * 64, "mps": 4 * 64 * 64}
"""Latent pixels that an automatic batch begins with, by device; on a CPU larger batches gain nothing."""


@dataclass(frozen=True)
class Sample:
    """A finished image with the latents (c, h, w), float32 on the CPU, that it was decoded from."""

    job: Job
    image: Image.Image
    latents: Tensor


def run_jobs(
    bundle: Bundle,
    jobs: Sequence[Job],
    batch_size: int | Literal["auto"] = "auto",
    listener: Listener = Listener(),
    observer: Observer | None = None,
) -> Iterator[Sample]:
    """Yields the jobs' images as they are finished, batch by batch; so not in the order of the jobs.

    Args:
        batch_size: Images denoised together at most; `auto` begins with `AUTOMATIC_BATCH` and halves when memory
            runs out. Images do not depend on it.
        listener: Hears of images done, and of a smaller batch.
        observer: Sees each call of the U-Net, for analysis.

    Raises:
        InputError: memory runs out with a batch size that was asked for, or even for a single image.
    """
    largest = max((job.settings.width * job.settings.height for job in jobs), default=1)
    size = automatic_batch(bundle, largest) if batch_size == "auto" else batch_size
    waiting = deque(batches(jobs, size))
    done = 0
    while waiting:
        batch = waiting.popleft()
        try:
            samples = _run_batch(bundle, batch, _watch(batch, done, len(jobs), listener, observer))
        except (RuntimeError, MemoryError) as error:
            if not (isinstance(error, MemoryError) or should_reduce_batch_size(error)):
                raise
            size = _smaller(len(batch), batch_size)
            listener.note(f"Out of memory at {len(batch)} images a batch: going on with {size}.")
            waiting = deque(batches([*batch, *(job for later in waiting for job in later)], size))
            continue
        yield from samples
        done += len(batch)
        listener.progress(done, len(jobs))


def batches(jobs: Iterable[Job], size: int) -> list[list[Job]]:
    """Groups jobs into batches of at most `size`, each in the order given."""
    groups: dict[Hashable, list[Job]] = defaultdict(list)
    for job in jobs:
        groups[batch_key(job)].append(job)
    return [group[start : start + size] for group in groups.values() for start in range(0, len(group), size)]


def batch_key(job: Job) -> Hashable:
    """Jobs with equal keys can share a batch; only seeds, texts and guidance scales differ within one.

    Prompts of unequal length are kept apart: in one call the shorter ones would cost as much as the longest.
    """
    sides = (job.positive, job.negative) if job.negative_acts else (job.positive,)
    return (
        replace(job.settings, guidance=0.0),
        job.guided,
        job.init_latents is None,
        job.control and job.control.model,
        tuple(
            (len(side.parts), len(side.embeds), any(each.negated for each in side.entries)) for side in sides
        ),
    )


def _run_batch(bundle: Bundle, batch: Sequence[Job], observer: Observer | None) -> list[Sample]:
    latents = denoise(bundle, batch, observer)
    rows = latents.cpu()
    return [Sample(*made) for made in zip(batch, decode_images(bundle, latents), rows, strict=True)]


def automatic_batch(bundle: Bundle, pixels: int) -> int:
    """How many images of so many pixels an automatic batch begins with."""
    budget = AUTOMATIC_BATCH.get(bundle.device.type, AUTOMATIC_BATCH["cpu"])
    return max(budget * bundle.vae_scale**2 // pixels, 1)


def _smaller(size: int, asked: int | Literal["auto"]) -> int:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if asked != "auto":
        raise InputError(
            f"batch_size: memory ran out at {counted(asked, 'image')}; give a smaller --batch-size, or auto"
        )
    if size == 1:
        raise InputError(
            "memory ran out for a single image; give a smaller --width and --height, --vae-tiling, "
            "--cpu-offload, or a --dtype of half the size"
        )
    return size // 2


def _watch(
    batch: Sequence[Job], done: int, total: int, listener: Listener, observer: Observer | None
) -> Observer:
    """Turns steps into progress, and passes them on."""

    def watch(step: Step) -> None:
        listener.progress(done + len(batch) * (step.index + 1) / (step.count + 1), total)
        if observer:
            observer(step)

    return watch

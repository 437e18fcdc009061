"""Where in an image a word or an embedding acts: heat maps of cross-attention (DAAM, Tang et al. 2210.04885)."""

from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lab.condition.conditioning import Encoding
from lab.condition.prompt_parts import find_rows
from lab.errors import InputError, did_you_mean
from lab.files import atomic
from lab.models.attention import AttentionRecorder, Grid, at_one_size, attention_recorded, grid_of
from lab.models.bundle import Bundle
from lab.sample.denoise import Step, denoise
from lab.sample.engine import batches
from lab.sample.pixels import decode_images
from lab.sample.plan import Job

Side = Literal["positive", "negative"]


@dataclass(frozen=True)
class Target:
    """A word, several words in a row, or an embedding by its name; None stands for all that the side says."""

    text: str | None = None
    side: Side = "positive"

    @property
    def label(self) -> str:
        """The target as captions name it."""
        named = self.text or "all words"
        return named if self.side == "positive" else f"{named} (negative)"


def check_layers_open(bundle: Bundle) -> None:
    """Refuses, before anything is computed, a U-Net whose layers do not tell what they attend to.

    Raises:
        InputError: it is compiled.
    """
    if bundle.options.compile:
        raise InputError("heat map: it looks into the U-Net's layers, which --compile closes; leave that out")


def check_target(job: Job, target: Target) -> None:
    """Refuses, before anything is computed, what a job's prompt does not say.

    Raises:
        InputError: a word that is not in the prompt (with the nearest words), or the side of a negative prompt
            that is no row of the U-Net's batch.
    """
    if target.side == "negative" and not job.guided:
        part = (
            "acts where the prompt's words are attended to, and has no map"
            if job.negative_acts
            else "takes no part"
        )
        raise InputError(
            f"heat map of '{target.label}': without guidance the negative prompt {part}; raise --guidance above 1"
        )
    prompt = getattr(job, target.side)
    entries = [encoding for part in prompt.parts for _, encoding in part.entries]
    if any(find_rows(encoding, target.text) for encoding in entries):
        return
    if target.text is None:
        raise InputError(f"heat map: the {target.side} prompt is empty, so there is nothing to map")
    words = {span.text for encoding in entries for span in encoding.spans}
    raise InputError(
        f"heat map: '{target.text}' is not in the {target.side} prompt '{prompt.prompt}'"
        f"{did_you_mean(target.text, words)}"
    )


BATCH = 4
"""Images denoised together: their maps are in memory together."""


@dataclass
class KeyMaps:
    """The maps of all rows of one encoding, while it was in force.

    Attributes:
        calls: How many calls of the U-Net it was in force at, of those that count.
        sums: (keys, height, width) by resolution, added up over these calls; on the CPU when all are in.
    """

    encoding: Encoding
    calls: int = 0
    sums: dict[Grid, Tensor] = field(default_factory=dict)

    def add(self, shares: dict[Grid, Tensor]) -> None:
        """Adds one call's maps (keys, height, width) by resolution."""
        self.calls += 1
        for grid, share in shares.items():
            self.sums[grid] = self.sums[grid] + share if grid in self.sums else share

    def total(self, rows: Sequence[int], size: Grid) -> Tensor:
        """(height, width): the maps of some rows (keys) together, added up over the calls, at that size in pixels."""
        return at_one_size([total[rows].sum(dim=0)[None, None] for total in self.sums.values()], size)[0, 0]


@dataclass(frozen=True)
class HeatMaps:
    """An image and where each side of its prompt acted on it.

    Attributes:
        image: Bit for bit the image that the job makes without maps.
        sides: For each side, what was captured: one entry for each encoding that was in force at a chosen step.
    """

    job: Job
    image: Image.Image
    sides: dict[Side, tuple[KeyMaps, ...]]

    def of(self, target: Target) -> Tensor:
        """(H, W) float32 in 0..1 at the image's size: the share of attention that the target takes at each pixel.

        The rows of a word or an embedding are added up, as are a word's occurrences. Of a scheduled prompt, only
        the steps at which the target is in it count.

        Raises:
            InputError: the target is in the prompt at no chosen step.
        """
        found = [(maps, find_rows(maps.encoding, target.text)) for maps in self.sides.get(target.side, ())]
        present = [(maps, rows) for maps, rows in found if rows]
        if not present:
            check_target(self.job, target)
            raise InputError(f"heat map: '{target.label}' is in the prompt at none of the chosen steps")
        size = self.image.height, self.image.width
        total = torch.stack([maps.total(rows, size) for maps, rows in present]).sum(dim=0)
        return total / sum(maps.calls for maps, _ in present)

    def save_arrays(self, path: Path, targets: Sequence[Target]) -> None:
        """Writes the maps of targets to an npz file: one (H, W) float32 array for each, named by its label.

        Raises:
            InputError: a target that is in the prompt at no chosen step, or the file cannot be written.
        """
        arrays = {target.label: self.of(target).numpy() for target in targets}
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def heat_maps(
    bundle: Bundle,
    jobs: Sequence[Job],
    targets: Sequence[Target] = (),
    *,
    steps: Container[int] | None = None,
    layers: Sequence[str] = (),
    heads: Collection[int] = (),
) -> list[HeatMaps]:
    """Makes images and captures where their prompts act.

    Args:
        targets: What will be asked of every result; checked before anything is computed.
        steps: Denoising steps that count, from 0, such as `range(5)`; all by default.
        layers: Parts of names of the U-Net's layers, such as `up_blocks`; those that have any of them count, or all.
        heads: The attention heads that count, from 0, or all.

    Returns:
        One result for each job, in their order.

    Raises:
        InputError: a target that a prompt does not have (with the nearest words), steps, layers or heads that are
            not there, or a compiled U-Net.
    """
    check_layers_open(bundle)
    for job in jobs:
        for target in targets:
            check_target(job, target)
    made: dict[int, HeatMaps] = {}
    numbered = [replace(job, index=place) for place, job in enumerate(jobs)]
    for batch in batches(numbered, BATCH):
        with attention_recorded(bundle.unet, layers, heads) as recorder:
            collector = _Collector(batch, recorder, steps)
            latents = denoise(bundle, batch, collector)
        made.update({maps.job.index: maps for maps in collector.finish(decode_images(bundle, latents))})
    return [replace(made[place], job=job) for place, job in enumerate(jobs)]


class _Collector:
    """Files the maps of each call of the U-Net under the images, sides and encodings that they belong to."""

    def __init__(self, batch: Sequence[Job], recorder: AttentionRecorder, steps: Container[int] | None):
        self._batch = batch
        self._recorder = recorder
        self._steps = steps
        self._count = batch[0].settings.steps
        self._found: list[dict[tuple[Side, int, str], KeyMaps]] = [{} for _ in batch]

    def __call__(self, step: Step) -> None:
        shares = self._recorder.pop_maps()
        if self._steps is not None and step.step not in self._steps:
            return
        height, width = step.prediction.shape[-2:]
        grids = {grid_of(pixels, height, width): share for pixels, share in shares.items()}
        sides: list[Side] = ["negative", "positive"] if step.negative else ["positive"]
        members = [(side, part) for side in sides for part in range(len(getattr(self._batch[0], side).parts))]
        for place, (side, part) in enumerate(members):
            for image, job in enumerate(self._batch):
                encoding = getattr(job, side).parts[part].at(step.index)
                maps = self._found[image].setdefault((side, part, encoding.text), KeyMaps(encoding))
                row = place * len(self._batch) + image
                keys = len(encoding.embeds)  # each comes several times where another side is longer
                maps.add(
                    {
                        grid: share[row].unflatten(0, (-1, keys)).sum(dim=0).unflatten(-1, grid)
                        for grid, share in grids.items()
                    }
                )

    def finish(self, images: Iterable[Image.Image]) -> list[HeatMaps]:
        """The results for the batch's finished images."""
        if not all(self._found):
            raise InputError(f"heat map: none of the chosen steps is run; there are {self._count}, from 0")
        results = []
        for job, image, found in zip(self._batch, images, self._found, strict=True):
            sides: dict[Side, list[KeyMaps]] = defaultdict(list)
            for (side, *_), maps in found.items():
                maps.sums = {grid: total.cpu() for grid, total in maps.sums.items()}
                sides[side].append(maps)
            results.append(HeatMaps(job, image, {side: tuple(maps) for side, maps in sides.items()}))
        return results


COLOURS = "turbo"
"""The matplotlib colormap, from nothing to `high`."""


def overlay(image: Image.Image, heat: Tensor, high: float | None = None, opacity: float = 0.6) -> Image.Image:
    """Lays a map (H, W) of the image's size over it.

    Args:
        high: The value that gets the last colour; by default the map's own largest. Give one value to several maps
            to make them comparable.
        opacity: Of the colours, 0 to 1.
    """
    top = float(heat.max()) if high is None else high
    shares = np.clip(heat.numpy() / max(top, 1e-12), 0, 1)
    colours = matplotlib.colormaps[COLOURS](shares, bytes=True)[..., :3]
    return Image.blend(image.convert("RGB"), Image.fromarray(colours), opacity)

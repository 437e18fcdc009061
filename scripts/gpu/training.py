"""How fast embeddings are learned at true shape, against a loop of the stock kind, both warm in one process."""

import statistics
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from scripts.gpu.learning import learn, progress
from scripts.gpu.shapes import random_bundle
from scripts.gpu.stand import Found, Stand
from scripts.stock_training import FolderStock

WARM = 2
"""First steps of a run that do not count."""

SMALL_CARD = 40.0
"""GiB; on smaller cards a step of SDXL is computed in parts, and its activations twice."""


@dataclass(frozen=True)
class Shape:
    """How a shape is learned.

    Attributes:
        batch_size, steps: Of the speed measured against the stock loop.
        thing_accumulation: Pieces of a step in which a thing is learned on a small card; on others it is one.
        aim: Seconds that a thing is to take from start to stop.
    """

    family: str
    batch_size: int
    thing_accumulation: int
    steps: int
    aim: float


SD15 = Shape("sd1", 4, 1, 10, 10.0)
SDXL = Shape("sdxl", 1, 4, 8, 30.0)
THING_STEPS = 35
"""What the bundled model's recipe takes; with random weights there is nothing to stop by."""


def sd15(stand: Stand, found: Found) -> None:
    """SD 1.5's shape, 512 px."""
    _speed(stand, found, SD15)


def sdxl(stand: Stand, found: Found) -> None:
    """SDXL's shape, 1024 px."""
    _speed(stand, found, SDXL)


def thing_sd15(stand: Stand, found: Found) -> None:
    """A thing at SD 1.5's shape."""
    _thing(stand, found, SD15)


def thing_sdxl(stand: Stand, found: Found) -> None:
    """A thing at SDXL's shape."""
    _thing(stand, found, SDXL)


def _speed(stand: Stand, found: Found, shape: Shape) -> None:
    """Steps a second, each side twice in turns, and the memory of a whole call beside the weights."""
    bundle, images = random_bundle(stand, shape.family), _pictures(stand)
    batch_size, steps = stand.pick(shape.batch_size, 1), stand.pick(shape.steps, 2)
    stock = FolderStock(bundle, images, vectors=4, batch_size=batch_size)
    seconds: dict[str, list[float]] = {"lab": [], "stock": []}
    peaks: dict[str, list[float]] = {"lab": [], "stock": []}
    for _ in range(stand.pick(2, 1)):
        stand.tidy()  # what PyTorch holds back counts as used where a run looks for room
        out = stand.out("speed")
        settings: dict[str, Any] = {
            "images": images,
            "batch_size": batch_size,
            "evaluate_every": 10**6,
            "evaluate_on": 1,
        }
        took = stand.timed(partial(learn, bundle, out, steps=WARM + steps + 1, **settings))
        peaks["lab"].append(took.peak)
        seconds["lab"] += _step_seconds(progress(out))
        own = [stand.timed(stock.step) for _ in range(WARM + steps)][WARM:]
        peaks["stock"].append(max(each.peak for each in own))
        seconds["stock"] += [each.seconds for each in own]
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    for name, median in medians.items():
        found.note(f"{name}, steps/s at batch {batch_size}", 1 / median)
        found.note(f"{name}, peak GiB more", max(peaks[name]))
    found.aim("the lab's steps by the stock loop's", medians["stock"] / medians["lab"], least=1.5)


def _step_seconds(lines: list[dict[str, Any]]) -> list[float]:
    """Seconds of each step but the first ones and the last, which is evaluated."""
    times = [line["seconds"] for line in lines]
    return [after - before for before, after in zip(times[WARM - 1 : -2], times[WARM:-1], strict=True)]


def _thing(stand: Stand, found: Found, shape: Shape) -> None:
    """By the recipe of the bundled model, without previews: from the call to the saved embedding."""
    bundle, images = random_bundle(stand, shape.family), _pictures(stand)
    small = stand.on_gpu and torch.cuda.get_device_properties(stand.device).total_memory < SMALL_CARD * 2**30
    settings = {
        "images": images,
        "batch_size": stand.pick(4, 2),
        "accumulation": shape.thing_accumulation if small else 1,
        "gradient_checkpointing": small,
        "evaluate_every": 5,
        "evaluate_on": stand.pick(8, 1),
    }
    learn(bundle, stand.out("warm"), steps=2, **settings)
    stand.tidy()
    out, steps = stand.out("thing"), stand.pick(THING_STEPS, 5)
    took = stand.timed(lambda: learn(bundle, out, steps=steps, **settings))
    found.note("steps", steps)
    found.note("peak GiB more", took.peak)
    found.note("seconds of the last step's end after the first's", _span(progress(out)))
    found.aim("seconds from start to stop", took.seconds, most=shape.aim)


def _span(lines: list[dict[str, Any]]) -> float:
    return lines[-1]["seconds"] - lines[0]["seconds"]


def _pictures(stand: Stand) -> Path:
    """A folder of five images of 1024 px, made here: what they show does not matter."""
    folder = stand.folder / "pictures"
    if not folder.is_dir():
        folder.mkdir()
        generator = np.random.default_rng(0)
        for number in range(5):
            coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            coarse.resize((1024, 1024), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder

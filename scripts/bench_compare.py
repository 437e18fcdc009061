"""How fast the lab compares, against a plain loop over diffusers' own pipeline on the same weights.

    python -m scripts.bench_compare [--model emoji] [--steps 12] [--rounds 3]

8 variants (2 negative prompts x 4 guidance scales) x 4 prompts x 4 seeds. The plain loop calls the pipeline once for
each variant and prompt with the seeds as one batch, in the bundle's own precision, and keeps the images in memory.
The lab writes every image with its record to disk; with metrics, it also reads them back, measures them and writes
tables and report. The three take turns in one process, so that a machine that speeds up or slows down does so for
all. Printed are medians over the rounds; ratios are taken within a round.

    python -m scripts.bench_compare --memory 10000

How much memory a run of so many images takes on top of a small one's, stage by stage: images that cost next to
nothing (one step, 32 x 32, no guidance) stand in for real ones; whatever grows with their number is the same.
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from diffusers import DiffusionPipeline
from rich.console import Console
from rich.table import Table

import lab
from lab.comparing.cells import make_cells
from lab.comparing.experiment import Experiment
from lab.models.bundle import Bundle
from lab.runs.run import RunFolder
from scripts.bench_generate import stock_pipeline

PROMPTS = [
    f"a noto emoji of a {thing} on a white background"
    for thing in ("red apple", "rocket", "cactus", "guitar")
]
NEGATIVES, SCALES, SEEDS = ("", "blurry, pixelated, noisy"), (2.0, 4.0, 7.0, 10.0), (1, 2, 3, 4)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="emoji", help="the bundled model or a diffusers folder")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--memory", type=int, help="images of a run whose memory is measured instead")
    arguments = parser.parse_args()
    bundle = lab.load(arguments.model, dtype=arguments.dtype)
    if arguments.memory:
        measure_memory(bundle, arguments.memory)
        return
    pipeline = stock_pipeline(bundle, bundle.dtype)
    sides = {
        "plain loop": lambda _: plain_loop(pipeline, bundle, arguments.steps),
        "lab, images": lambda out: images_alone(bundle, arguments.steps, out),
        "lab, images, metrics and report": lambda out: whole(bundle, arguments.steps, out),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(arguments.rounds + 1):
        for name, side in sides.items():
            taken = timed(side)
            if turn:  # the first turn warms up
                seconds[name].append(taken)
    images = len(NEGATIVES) * len(SCALES) * len(PROMPTS) * len(SEEDS)
    table = Table(title=f"{images} images, {arguments.steps} steps, {bundle.device.type}, {bundle.dtype}")
    for column in ("", "seconds", "images/s", "times as fast"):
        table.add_column(column, justify="right" if column else "left")
    for name, each in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(seconds["plain loop"], each, strict=True))
        median = statistics.median(each)
        table.add_row(name, f"{median:.1f}", f"{images / median:.2f}", f"{ratio:.2f}")
    Console(width=110).print(table)


def timed(side: Callable[[Path], None]) -> float:
    """Seconds that a side takes, which may write to the folder that it is given."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        side(Path(folder, "run"))
        return time.perf_counter() - began


def plain_loop(
    pipeline: DiffusionPipeline,
    bundle: Bundle,
    steps: int,
    prompts: Sequence[str] = PROMPTS,
    scales: Sequence[float] = SCALES,
    seeds: Sequence[int] = SEEDS,
) -> None:
    """What they then write."""
    for negative in NEGATIVES:
        for scale in scales:
            for prompt in prompts:
                pipeline(
                    prompt,
                    negative_prompt=negative,
                    guidance_scale=scale,
                    guidance_rescale=bundle.defaults.guidance_rescale,
                    num_inference_steps=steps,
                    num_images_per_prompt=len(seeds),
                    generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
                    width=bundle.defaults.width,
                    height=bundle.defaults.height,
                )


def config(steps: int, out: Path) -> lab.CompareConfig:
    axes = {"negative_prompt": list(NEGATIVES), "guidance": list(SCALES)}
    return lab.CompareConfig(prompts=PROMPTS, seeds=SEEDS, axes=axes, steps=steps, out=out)


def images_alone(bundle: Bundle, steps: int, out: Path) -> None:
    experiment = Experiment(config(steps, out))
    make_cells(bundle, experiment, RunFolder(out / "cells"), PartialState(cpu=bundle.device.type == "cpu"))


def whole(bundle: Bundle, steps: int, out: Path) -> None:
    lab.compare(bundle, config(steps, out))


def measure_memory(bundle: Bundle, images: int) -> None:
    """Prints the peak of a small run, and how far a large one goes beyond it."""

    def peak(count: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            prompts = [f"a noto emoji of {number}" for number in range(10)]
            axes = {"negative_prompt": [f"blurry {number}" for number in range(10)]}
            cheap = {"steps": 1, "guidance": 1.0, "width": 32, "height": 32, "batch_size": 100}
            seeds = range(max(count // 100, 2))
            lab.compare(
                bundle, lab.CompareConfig(prompts=prompts, seeds=seeds, axes=axes, out=folder, **cheap)
            )
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

    before = peak(200)
    print(f"200 images: {before:.0f} MB at most; {images}: {peak(images) - before:.0f} MB more")


if __name__ == "__main__":
    main()

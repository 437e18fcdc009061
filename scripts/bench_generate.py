"""How fast the lab generates, against diffusers' own pipeline on the same weights.

    python -m scripts.bench_generate [--model emoji] [--steps 12] [--rounds 3]

Both sides run in this one process and take turns, so that a machine that speeds up or slows down does so for
both. For each workload it prints the median images per second of each side, their ratio, the peak memory on top
of the loaded model, and the PSNR between the two sides' images. The pipeline is called as its documentation
shows: a list of prompts with a list of generators.
"""

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from rich.console import Console
from rich.table import Table

import lab
from lab.images import psnr
from lab.models.bundle import Bundle

Images = list[Image.Image]
WORKLOADS = {"16 prompts x 1 seed": (16, 1), "1 prompt x 16 seeds": (1, 16), "64 prompts x 1 seed": (64, 1)}
THINGS = ("red apple", "cat", "rocket", "crown", "frog", "tulip", "honeybee", "sailboat")
COLOURS = ("white", "blue", "yellow", "green", "pink", "black", "red", "orange")
PROMPTS = [f"noto emoji of a {thing} on a {colour} background" for colour in COLOURS for thing in THINGS]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="emoji", help="the bundled model or a diffusers folder")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    table = Table(title=f"{arguments.model}, {arguments.steps} steps, median of {arguments.rounds} rounds")
    columns = (
        "workload",
        "dtype",
        "diffusers images/s",
        "lab images/s",
        "ratio",
        "diffusers MB",
        "lab MB",
        "PSNR dB",
    )
    for name in columns:
        table.add_column(name, justify="left" if name in ("workload", "dtype") else "right")
    for dtype in ("float32", "bfloat16"):
        bundle = lab.load(arguments.model, dtype=dtype)
        pipeline = stock_pipeline(bundle)
        for name, (prompts, seeds) in WORKLOADS.items():
            sides = both_sides(bundle, pipeline, PROMPTS[:prompts], list(range(seeds)), arguments.steps)
            table.add_row(
                name, f"{dtype} ({bundle.dtype})".replace("torch.", ""), *measure(sides, arguments.rounds)
            )
    Console(width=140).print(table)


def stock_pipeline(bundle: Bundle, dtype: torch.dtype = torch.float32) -> DiffusionPipeline:
    """The pipeline as someone loads it who has never heard of the lab."""
    pipeline = DiffusionPipeline.from_pretrained(bundle.root, torch_dtype=dtype).to(bundle.device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def both_sides(
    bundle: Bundle, pipeline: DiffusionPipeline, prompts: list[str], seeds: list[int], steps: int
) -> tuple[Callable[[], Images], Callable[[], Images]]:
    """Two functions that make the same images."""
    defaults = bundle.defaults

    def stock() -> Images:
        pairs = [(prompt, seed) for prompt in prompts for seed in seeds]
        return pipeline(
            [prompt for prompt, _ in pairs],
            negative_prompt=[""] * len(pairs),
            generator=[torch.Generator("cpu").manual_seed(seed) for _, seed in pairs],
            num_inference_steps=steps,
            guidance_scale=defaults.guidance,
            guidance_rescale=defaults.guidance_rescale,
            width=defaults.width,
            height=defaults.height,
        ).images

    def ours() -> Images:
        results = lab.generate(bundle, prompt=prompts, negative_prompt="", seeds=seeds, steps=steps)
        return [result.image for result in results]

    return stock, ours


def measure(sides: tuple[Callable[[], Images], Callable[[], Images]], rounds: int) -> list[str]:
    """One row of the table."""
    images = [side() for side in sides]  # warm-up, and what PSNR compares
    seconds: tuple[list[float], list[float]] = ([], [])
    memory: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for place, side in enumerate(sides):
            before = reset_peak()
            began = time.perf_counter()
            side()
            seconds[place].append(time.perf_counter() - began)
            memory[place].append((peak() - before) / 2**20)
    speeds = [len(images[0]) / statistics.median(each) for each in seconds]
    ratio = statistics.median(a / b for a, b in zip(*seconds, strict=True))
    likeness = min(psnr(a, b) for a, b in zip(*images, strict=True))
    figures = [f"{speed:.2f}" for speed in speeds] + [f"{ratio:.2f}"]
    return [*figures, *(f"{max(each):.0f}" for each in memory), f"{likeness:.1f}"]


def reset_peak() -> float:
    """Starts a new memory peak and returns what is in use now, in bytes (GPU memory where there is a GPU)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier work let go of counts anew when it is taken again
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> float:
    """The peak since `reset_peak`, in bytes."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _status("VmHWM")


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(key)) * 1024


if __name__ == "__main__":
    main()

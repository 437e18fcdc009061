"""Linear or spherical, even in the number or in the image: walks between prompts on the bundled model.

    python -m scripts.eval_walks [--frames 9]

For each way it prints, as means over six pairs of prompts, how long the way is in pixels, the largest change from frame
to frame over the mean, with even numbers and with frames put where the image changes alike, and how likely the frames
between are degraded.
"""

import argparse
from itertools import product
from statistics import mean

import torch

import lab
from lab.images import to_tensor
from lab.models.bundle import Bundle
from lab.sample.config import GenerateConfig, Request
from lab.sample.engine import run_jobs
from lab.sample.plan import plan
from lab.sample.walk import WAYS, Walk, even_places, measure_changes
from lab.score.config import ScoreOptions
from lab.score.tools import open_tools

PAIRS = (
    ("a red apple", "a green pear"), ("a cat", "a dog"), ("a car", "a ship"), ("a house", "a tree"),
    ("a yellow star", "a blue heart"), ("a cup of coffee", "a slice of cake"),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=9)
    frames = parser.parse_args().frames
    bundle = lab.load("emoji")
    found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    for pair, way in product(PAIRS, WAYS):
        prompts = [f"noto emoji of {thing}" for thing in pair]
        config = GenerateConfig.build(
            {"walk": prompts, "way": way, "frames": frames, "steps": 10, "seeds": "1"}
        )
        found[way].append(measured(bundle, config))
    print("| way | length | largest over mean change, even numbers | frames placed | degraded between |")
    print("|---|---|---|---|---|")
    for way, rows in found.items():
        length, before, after, degraded = map(mean, zip(*rows, strict=True))
        print(f"| {way} | {length:.2f} | {before:.2f} | {after:.2f} | {degraded:.1%} |")


def measured(bundle: Bundle, config: GenerateConfig) -> list[float]:
    """Length, unevenness before and after frames are placed, and the mean probability of a degraded frame between."""
    walk = Walk(bundle, config)
    places = [frame / (config.frames - 1) for frame in range(config.frames)]
    changes = measure_changes(bundle, config, [walk.at(place) for place in places])
    placed = measure_changes(bundle, config, [walk.at(place) for place in even_places(places, changes)])
    return [
        sum(changes),
        max(changes) / mean(changes),
        max(placed) / mean(placed),
        degradation(bundle, config, walk),
    ]


def degradation(bundle: Bundle, config: GenerateConfig, walk: Walk) -> float:
    """The judge's mean probability of a degraded image at a quarter, the half and three quarters of the way."""
    quality = open_tools(bundle, ScoreOptions(), metrics=["degraded"]).quality
    assert quality is not None, "asked for by name"
    options = GenerateConfig.build({"steps": config.steps})
    asked = [
        Request(number, walk.at(place), None, 1, options) for number, place in enumerate((0.25, 0.5, 0.75))
    ]
    images = [sample.image for sample in run_jobs(bundle, plan(bundle, asked))]
    with torch.no_grad():
        return float(quality.degraded(to_tensor(images)).mean())


if __name__ == "__main__":
    main()

"""What the weight of a slider does, on the bundled model, to things and seeds that it was not learned on.

    python -m scripts.eval_sliders RUN [RUN ...] [--things cat apple car bear] [--seeds 11 12]

For each run of `lab train --objective slider` it makes images at even weights, and at the weights that the run found to
look even, in each dialect that has weights, and prints

    place    how far images are on the way, at each weight (see lab/training/strength.py)
    rest     what else changes, in lengths of the way
    up       the share of neighbouring weights of which the larger one's images are farther
    uneven   the largest step over the mean one, up to weight 1, and over the run's own steps

A contact sheet shows what was made.
"""

import argparse
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

import lab
from lab.images import to_tensor
from lab.models.bundle import Bundle
from lab.runs.sheet import SheetGroup, write_sheets
from lab.score.clip import Clip, open_clip
from lab.training.data.sides import Side, read_sides
from lab.training.strength import place_images, written

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
UP_TO_ONE = 5
STEPS = 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--things", nargs="+", default=["cat", "apple", "car", "bear"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[11])
    parser.add_argument("--dialects", nargs="+", default=["a1111", "comfy", "compel"])
    parser.add_argument("--out", type=Path, default=Path("outputs/eval-sliders"))
    arguments = parser.parse_args()
    bundle = lab.load("emoji", dtype="bfloat16")
    clip = open_clip(bundle)
    assert clip is not None, "the bundled model comes with its CLIP"
    for run in arguments.runs:
        rows = evaluate(bundle, clip, run, arguments)
        print(*write_sheets(arguments.out / f"{run.name}.png", rows), sep="\n", flush=True)


def evaluate(bundle: Bundle, clip: Clip, run: Path, arguments: argparse.Namespace) -> list[SheetGroup]:
    """Prints a run's table, and returns rows for the contact sheet."""
    config = lab.TrainConfig.read(run / "config.yaml")
    slider = lab.read_embedding(run / f"{config.name}.safetensors")
    sides = read_sides(config.model_copy(update={"things": arguments.things}))
    offered: list[lab.Embedding | Path] = [*config.embeddings, slider]  # what folders at its ends became, too
    seeds, rows = arguments.seeds, []

    def look(prompts: Sequence[str], dialect: str, label: str) -> Tensor:
        """(prompts / sides, sides x seeds, p) features of images."""
        results = lab.generate(
            bundle, prompt=list(prompts), seeds=seeds, steps=STEPS, dialect=dialect, embeddings=offered
        )
        images = [result.image for result in results]
        rows.append(SheetGroup(f"{config.name}: {label}", saved(arguments.out / run.name, label, images)))
        with torch.no_grad():
            return clip.images(to_tensor(images)).unflatten(0, (-1, len(sides) * len(seeds)))

    ends = look([getattr(side, form) for form in Side._fields for side in sides], "plain", "prompts")
    print(f"{run}: {config.from_} -> {config.to}")
    for dialect in arguments.dialects:
        print(f"  {dialect}  weights {WEIGHTS}", flush=True)
        made = look(
            [prompt for weight in WEIGHTS for prompt in at(sides, slider, weight, dialect)], dialect, dialect
        )
        places, rests = place_images(made, *ends)
        said = slider.provenance.metadata.get(f"lab.slider.{dialect}")
        print(f"    place  {shown(places)}\n    rest   {shown(rests)}\n    up     {rising(places):.0%}")
        uneven = f"    uneven {unevenness(places[:UP_TO_ONE]):.2f}"
        if said:
            even = json.loads(said)["even"]
            prompts = [prompt for weight in even for prompt in at(sides, slider, weight, dialect)]
            steps, _ = place_images(look(prompts, dialect, f"{dialect}, even"), *ends)
            uneven += f", at {even} {unevenness(steps):.2f}; places {shown(steps)}"
        print(uneven, flush=True)
    return rows


def at(sides: Sequence[Side], slider: lab.Embedding, weight: float, dialect: str) -> list[str]:
    return [f"{side.neutral} {written(slider.name, weight, dialect)}" for side in sides]


def rising(places: Tensor) -> float:
    """Of neighbouring weights, image by image, the share with places (weights, n) that rise."""
    return float((places[1:] > places[:-1]).float().mean())


def unevenness(places: Tensor) -> float:
    """The largest step of the mean place over the mean step; 1 where all are alike."""
    steps = [float(b - a) for a, b in pairwise(places.mean(dim=1))]
    return max(steps) / (sum(steps) / len(steps))


def shown(values: Tensor) -> str:
    return " ".join(f"{value:5.2f}" for value in values.mean(dim=1).tolist())


def saved(folder: Path, label: str, images: Sequence[Image.Image]) -> list[tuple[Path, str]]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{label.replace(', ', '-')}-{number:03d}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        image.save(path)
    return [(path, "") for path in paths]


if __name__ == "__main__":
    main()

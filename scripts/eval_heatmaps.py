"""Whether the map of an object's word covers the object: against the masks of renderings with two objects.

    python -m scripts.eval_heatmaps [--model emoji] [--scenes 100] [--noise 0.5] [--each-layer] [--sheet FILE]

Scenes hold two of the objects that the U-Net draws. Each is rendered, encoded, noised (by default to half of the
schedule) and denoised for one step with its caption; the maps of that one call of the U-Net are compared with the
renderings' own opacity. A map becomes a mask by this rule: a pixel counts if it lies above the middle between the map's
least and largest value; of a uniform map every pixel counts. Beside it stand DAAM's thresholds (Tang et al.,
2210.04885), by which a pixel counts from 0.3, 0.4 or 0.5 of the largest value on.

Printed are mean intersection over union with the object that the word names, with the other object, and of a uniform
map; how often the map's largest pixel lies on the object; and how often, on the objects' pixels, the word of the
object beats the other's. Needs the renderings of `python -m scripts.pretrain.data`.
"""

import argparse
import itertools
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

import lab
from lab.analysis.heatmaps import HeatMaps, Target, heat_maps, overlay
from lab.condition.config import TextOptions
from lab.models.bundle import Bundle
from lab.runs.sheet import SheetGroup, write_sheets
from lab.sample.config import GenerateConfig, Request
from lab.sample.pixels import encode_image
from lab.sample.plan import Job, encode_pairs
from lab.sample.settings import resolve_settings
from scripts.pretrain.caption import with_article
from scripts.pretrain.catalogue import STYLES
from scripts.pretrain.common import WORK
from scripts.pretrain.data import load
from scripts.pretrain.paint import paint
from scripts.pretrain.scene import Placed, Scene, side_by_side

Icons = dict[tuple[str, str], Tensor]
SEED = 1007
"""Of the scenes: other ones than pretraining draws, though of the same objects."""

STEPS = 20
"""Of the schedule; only the first that is run counts."""

DAAM = (0.3, 0.4, 0.5)
"""The thresholds of the paper, as shares of a map's largest value."""


SCORES = (
    "IoU",
    *(f"at {share}" for share in DAAM),
    "the other's",
    "a uniform map's",
    "points at it",
    "beats the other",
)
"""Of one object in one scene."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="emoji", help="the bundled model or a diffusers folder")
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument(
        "--noise", type=float, nargs="+", default=[0.5], help="shares of the schedule, 0 to 1"
    )
    parser.add_argument("--each-layer", action="store_true", help="also the maps of each layer alone")
    parser.add_argument("--sheet", type=Path, help="writes overlays of the first scenes to this PNG file")
    arguments = parser.parse_args()
    bundle = lab.load(arguments.model, dtype="float32")
    icons: Icons = torch.load(WORK / "icons.pt", weights_only=True)
    data = load()
    order, names = random.Random(SEED), list(data.split.train)
    scenes = [side_by_side(names, order.choice(list(STYLES)), order) for _ in range(arguments.scenes)]
    table = Table(title=f"{arguments.model}: {2 * len(scenes)} words in {len(scenes)} scenes of two objects")
    for column in ("layers", "noise", *SCORES):
        table.add_column(column, justify="left" if column == "layers" else "right")
    layers = ["all", *(layer_names(bundle) if arguments.each_layer else ())]
    shown: list[HeatMaps] = []
    for layer, noise in itertools.product(layers, arguments.noise):
        maps = capture(bundle, scenes, icons, noise, [] if layer == "all" else [layer])
        table.add_row(layer, f"{noise:g}", *means(scenes, maps, icons))
        shown = shown or maps
    Console(width=140).print(table)
    if arguments.sheet:
        write_sheets(
            arguments.sheet,
            [picture_row(arguments.sheet, *each) for each in zip(scenes[:12], shown[:12], strict=True)],
        )


def caption(scene: Scene) -> str:
    """One of pretraining's own forms, always the same."""
    left, right = (with_article(each.name) for each in scene.objects)
    return f"{scene.style} emoji of {left} next to {right} on a {scene.background} background"


def layer_names(bundle: Bundle) -> list[str]:
    """The U-Net's attention blocks, from its input to its output."""
    names = (name.partition(".transformer_blocks")[0] for name in bundle.unet.attn_processors)
    return sorted(set(names), key=lambda name: ("down mid up".index(name.partition("_")[0]), name))


def means(scenes: list[Scene], maps: list[HeatMaps], icons: Icons) -> list[str]:
    """The mean scores over all words."""
    scores = [
        score for scene, found in zip(scenes, maps, strict=True) for score in judge(scene, found, icons)
    ]
    return [f"{sum(values) / len(values):.3f}" for values in zip(*scores, strict=True)]


def capture(
    bundle: Bundle, scenes: list[Scene], icons: Icons, noise: float, layers: Sequence[str]
) -> list[HeatMaps]:
    """The maps of one call of the U-Net for each scene, which is noised to a share of the schedule."""
    options = GenerateConfig(steps=STEPS, guidance=1.0, scheduler="ddim")
    settings = replace(resolve_settings(bundle.facts, options), strength=noise)
    pairs = encode_pairs(bundle, [(caption(scene), "") for scene in scenes], {}, TextOptions(), STEPS)
    jobs = [
        Job(
            place,
            *pair,
            place,
            settings,
            Request(place, caption(scene), "", place, options),
            encode_image(bundle, picture(scene, icons, settings.width)),
        )
        for place, (scene, pair) in enumerate(zip(scenes, pairs, strict=True))
    ]
    return heat_maps(bundle, jobs, steps={STEPS - settings.steps_run}, layers=layers)


def picture(scene: Scene, icons: Icons, size: int) -> Image.Image:
    """The rendering as an image."""
    return Image.fromarray(paint(scene, icons, size).permute(1, 2, 0).numpy())


def mask(scene: Scene, placed: Placed, icons: Icons, size: int) -> Tensor:
    """(size, size) bool: where one object covers the picture, painted in white on black to find out."""
    opacity = icons[scene.style, placed.name][3:].expand(4, -1, -1)
    alone = replace(scene, objects=(placed,), background="black")
    return paint(alone, {(scene.style, placed.name): opacity}, size)[0] > 127


def judge(scene: Scene, maps: HeatMaps, icons: Icons) -> list[list[float]]:
    """The SCORES of both objects."""
    size = maps.image.width
    masks = [mask(scene, placed, icons, size) for placed in scene.objects]
    heats = [maps.of(Target(placed.name)) for placed in scene.objects]
    scores = []
    for own, other in ((0, 1), (1, 0)):
        heat = heats[own]
        marked = heat > (heat.min() + heat.max()) / 2
        scores.append(
            [
                iou(marked, masks[own]),
                *(iou(heat >= share * heat.max(), masks[own]) for share in DAAM),
                iou(marked, masks[other]),
                iou(torch.ones_like(marked), masks[own]),
                float(masks[own].flatten()[heat.argmax()]),
                float((heats[own] > heats[other])[masks[own]].float().mean()),
            ]
        )
    return scores


def iou(one: Tensor, other: Tensor) -> float:
    """Intersection over union of two masks."""
    return float((one & other).sum() / (one | other).sum())


def picture_row(sheet: Path, scene: Scene, maps: HeatMaps) -> SheetGroup:
    """The denoised image and both overlays, in files beside the sheet."""
    folder = sheet.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    heats = [maps.of(Target(placed.name)) for placed in scene.objects]
    images = [("image", maps.image)]
    images += [
        (each.name, overlay(maps.image, heat)) for each, heat in zip(scene.objects, heats, strict=True)
    ]
    cells = []
    for name, image in images:
        path = folder / f"{maps.job.index:03d}-{name.replace(' ', '-')}.png"
        image.resize((256, 256)).save(path)
        cells.append((path, name))
    return SheetGroup(caption(scene), cells)


if __name__ == "__main__":
    main()

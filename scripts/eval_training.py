"""How well embeddings are learned on the bundled model: how like, and whether prompts are still obeyed.

    python -m scripts.eval_training [--out outputs/eval-training] [--only owl candle] [--seeds 0 1]
        [--variant lab --variant adamw optimizer=adamw --variant stock loop=150 --variant words text=own ...]

For each thing in lab/assets/samples, which the model has never seen, each variant and each seed it learns by
configs/train/emoji-object.yaml with the variant's settings on top, and makes images of fourteen prompts (obedience.py)
on backgrounds and beside things that no image showed it. The style there is asked for by --only. Of those without
anything beside the thing it prints the likeness, the mean cosine to images kept apart (lab/assets/samples_test); of
all, the share that shows what was asked for. Both are judged by the network of scripts/pretrain/judge.py, which had
no part in learning. A variant may also be a stock loop's steps (`loop=150`, scripts/stock_training.py; `init=` says
where it begins) or words alone (`text=own`: the thing's name; `text=red apple`). A style is learned by
configs/train/emoji-style.yaml, and what is made of the captions of the images kept apart, which show other objects,
is held each against its own image.

Two things joined by + (`--only owl+candle`) are learned together, or with `apart=true` in runs of their own, or with
`scenes=plain` from pictures that show both, with `scenes=masks` from the same with masks. `both` is the share of images
that show both where they are asked for side by side, and likeness that of each where it is asked for alone.

Differences are from the first variant, paired by thing, seed, prompt and noise, with 95 % intervals over things; noise
is the standard error that comes from the images alone. obedience-over-likeness.png in the folder shows all variants'
means. Every cell is a line of measured.jsonl there, and the same command goes on where it was interrupted.
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
import yaml
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

import lab
from lab.comparing.statistics import Array, measure
from lab.images import to_tensor
from lab.models.bundle import Bundle
from lab.models.patches import frozen
from lab.score.clip import Seeing, image_features
from lab.training.prepare import prepare
from scripts.obedience import BOTH, KINDS, JudgeOfRenderings, asked_about
from scripts.stock_training import Stock
from scripts.things import KEPT_APART, LEARN_FROM, all_things, is_style, pictures_of, write_scenes

RECIPES = {
    "concept": Path("configs/train/emoji-object.yaml"),
    "style": Path("configs/train/emoji-style.yaml"),
}
SEEDS = [1, 2]
"""Of a prompt's images."""

Cell = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/eval-training"))
    parser.add_argument("--only", nargs="*", help="folders of lab/assets/samples")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0], help="of learning")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--image-seeds", nargs="*", type=int, default=[1], help="of each prompt's images")
    parser.add_argument("--image-steps", type=int, default=8, help="denoising steps of an image")
    parser.add_argument(
        "--variant", nargs="+", action="append", metavar="NAME [KEY=VALUE ...]", help="repeatable; lab alone"
    )
    arguments = parser.parse_args()
    variants = {
        name: {key: yaml.safe_load(value) for key, value in (each.split("=", 1) for each in settings)}
        for name, *settings in arguments.variant or [["lab"]]
    }
    names = arguments.only or all_things()
    for name, (variant, settings) in itertools.product(names, variants.items()):
        unfit = {*settings} & ({"loop"} if "+" in name else {"apart", "scenes"})
        if unfit:
            parser.error(f"{variant}: {', '.join(unfit)} is not for {name}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "measured.jsonl"
    bundle = lab.load("emoji", dtype=arguments.dtype)
    drawn: Cell = {name: getattr(arguments, name) for name in ("dtype", "image_seeds", "image_steps")}
    check_drawn(file, drawn)
    bench = Bench(bundle, JudgeOfRenderings(KEPT_APART), arguments.image_seeds, arguments.image_steps)
    for seed in arguments.seeds:
        for name in names:
            for variant, settings in variants.items():
                if not any(same(cell, variant, settings, name, seed) for cell in read(file)):
                    cell = bench.cell(name, variant, settings, seed) | {"drawn": drawn}
                    with file.open("a", encoding="utf-8") as lines:
                        lines.write(json.dumps(cell) + "\n")
                    print(f"{name:14} seed {seed}  {line([cell])}", flush=True)
    asked = [cell for cell in read(file) if cell["thing"] in names and cell["seed"] in arguments.seeds]
    found = {
        variant: {(cell["thing"], cell["seed"]): cell for cell in asked if cell["variant"] == variant}
        for variant in variants
    }
    report(found)
    draw(found, arguments.out / "obedience-over-likeness.png")


class Bench:
    """Learns things and looks at what is made of them."""

    def __init__(self, bundle: Bundle, judge: JudgeOfRenderings, seeds: Sequence[int], image_steps: int):
        self.bundle, self.judge, self.seeds, self.image_steps = bundle, judge, seeds, image_steps

    def cell(self, name: str, variant: str, settings: Mapping[str, Any], seed: int) -> Cell:
        """One thing, learned in one way: what it took, and what the judge says of each image."""
        began, names = time.perf_counter(), name.split("+")
        words, embeddings, took = self.learn(names, settings, seed)
        seconds, asked = time.perf_counter() - began, asked_about(names)
        texts = [filled(each.prompt, words) for each in asked]
        made = generate(self.bundle, texts, embeddings, self.seeds, self.image_steps)
        asked = [each for each in asked for _ in self.seeds]
        apart = [path for one in names for path in pictures_of(one, KEPT_APART)]
        cosines = features(self.judge, made) @ image_features(self.judge, apart, most=None).T
        right = self.judge.confirms(to_tensor(made), [each.context for each in asked])
        images = [
            {
                "kind": each.context.kind,
                "likeness": round(float(like[each.held_against].mean()), 4),
                "right": good,
            }
            for each, like, good in zip(asked, cosines, right, strict=True)
        ]
        about = {"variant": variant, "settings": dict(settings), "thing": name, "seed": seed}
        return about | took | {"seconds": round(seconds, 1), "images": images}

    def learn(
        self, names: Sequence[str], settings: Mapping[str, Any], seed: int
    ) -> tuple[list[str], list[lab.Embedding], Cell]:
        """What stands for the things in prompts, the embeddings that it takes, and how many steps led to which norm."""
        if "text" in settings:
            own = [name.replace("-style", "").replace("-", " ") for name in names]
            return (own if settings["text"] == "own" else [settings["text"]]), [], {"step": 0, "norm": 0.0}
        if settings.get("apart"):
            alone = {key: value for key, value in settings.items() if key != "apart"}
            parts = [self.learn([name], alone, seed) for name in names]
            took = {key: mean(part[2][key] for part in parts) for key in parts[0][2]}
            return [part[0][0] for part in parts], [part[1][0] for part in parts], took
        with tempfile.TemporaryDirectory() as folder:
            config = config_of(names, settings, seed, Path(folder))
            if "loop" in settings:
                loop, steps = Stock(prepare(self.bundle, config)), int(settings["loop"])
                with frozen(self.bundle):
                    for _ in range(steps):
                        loop.step()
                learned = [loop.embedding()]
            else:
                found = lab.train(self.bundle, config, out=Path(folder) / "run")
                learned = [found] if isinstance(found, lab.Embedding) else list(found)
                lines = (Path(folder) / "run" / "progress.jsonl").read_text(encoding="utf-8").splitlines()
                steps = json.loads(lines[-1])["step"]
        norm = mean(float(next(iter(one.vectors.values())).norm(dim=1).mean()) for one in learned)
        return [f"<{one.name}>" for one in learned], learned, {"step": steps, "norm": round(norm, 3)}


def config_of(names: Sequence[str], settings: Mapping[str, Any], seed: int, folder: Path) -> lab.TrainConfig:
    """How a variant learns things together: from pictures of each, or of both, which are written into a folder."""
    pictures = {name: LEARN_FROM / name for name in names}
    if "scenes" in settings:
        write_scenes(names, folder, masks=settings["scenes"] == "masks")
        pictures = dict.fromkeys(names, folder)
    images = [f"my-{name}={where}" for name, where in pictures.items()]
    own = {key: value for key, value in settings.items() if key not in ("loop", "scenes")}
    recipe = RECIPES["style" if is_style(names[0]) else "concept"]
    return lab.TrainConfig.read(recipe, {"images": images, "preview_every": 0, "seed": seed} | own)


def filled(prompt: str, words: Sequence[str]) -> str:
    """A prompt with a word in the place of {name}, and of two the second in that of {name2}."""
    return prompt.replace("{name}", words[0]).replace("{name2}", words[-1])


def read(file: Path) -> list[Cell]:
    """The cells that were measured so far."""
    if not file.is_file():
        return []
    return [json.loads(text) for text in file.read_text(encoding="utf-8").splitlines()]


def check_drawn(file: Path, drawn: Cell) -> None:
    """Refuses to go on with images made otherwise; the oldest cells do not say how theirs were.

    Raises:
        SystemExit: there are cells of such images.
    """
    for cell in read(file):
        if cell.get("drawn", drawn) != drawn:
            raise SystemExit(f"{file}: its images are of {cell['drawn']}, not {drawn}; choose another --out")


def same(cell: Cell, variant: str, settings: Mapping[str, Any], name: str, seed: int) -> bool:
    """Whether a cell is of this variant, thing and seed.

    Raises:
        SystemExit: it has the variant's name and other settings.
    """
    if cell["variant"] == variant and cell["settings"] != dict(settings):
        raise SystemExit(
            f"{variant}: measured with {cell['settings']} before; call {dict(settings)} otherwise"
        )
    return (cell["variant"], cell["thing"], cell["seed"]) == (variant, name, seed)


FIGURES = ("likeness", "obedience", *KINDS, BOTH)


def figure(cell: Cell, what: str) -> Array:
    """A figure of each image of a cell that has it."""
    kinds = {"likeness": KINDS[:1], "obedience": KINDS}.get(what, (what,))
    value = "likeness" if what == "likeness" else "right"
    return np.array([float(image[value]) for image in cell["images"] if image["kind"] in kinds])


def line(cells: Sequence[Cell]) -> str:
    """The means of some cells' figures."""
    there = [what for what in FIGURES if all(len(figure(cell, what)) for cell in cells)]
    figures = "  ".join(f"{what} {mean(figure(cell, what).mean() for cell in cells):.3f}" for what in there)
    effort = "  ".join(
        f"{what} {mean(cell[what] for cell in cells):.3g}" for what in ("norm", "step", "seconds")
    )
    return f"{cells[0]['variant']:20} {figures}  {effort}"


Found = dict[str, dict[tuple[str, int], Cell]]
"""The cells of each variant by thing and seed."""


def report(found: Found) -> None:
    """Every variant's means, and how they differ from the first one's."""
    print()
    for cells in found.values():
        print(line(list(cells.values())))
    first, *others = found
    for variant in others:
        keys = sorted(found[first])
        things = sorted({thing for thing, _ in keys})
        print(f"{variant} less {first}, {len(keys)} cells of {len(things)} things:")
        for what in (each for each in FIGURES if all(len(figure(found[first][key], each)) for key in keys)):
            pairs = [figure(found[variant][key], what) - figure(found[first][key], what) for key in keys]
            units = [
                [pair.mean() for key, pair in zip(keys, pairs, strict=True) if key[0] == thing]
                for thing in things
            ]
            effect = measure(np.array([[np.mean(each)] for each in units]))
            noise = np.sqrt(sum(pair.var(ddof=1) / len(pair) for pair in pairs)) / len(pairs)
            span = "" if effect.low is None else f" ({effect.low:+.3f} to {effect.high:+.3f})"
            print(f"  {what:10} {effect.difference:+.3f}{span}, noise {noise:.3f}")


def draw(found: Found, path: Path) -> None:
    """Obedience over likeness: a point for each variant's means."""
    chart = Figure(figsize=(7, 5), layout="constrained")
    axes = chart.subplots()
    axes.set(xlabel="likeness (cosine)", ylabel="obedience (share of prompts)")
    axes.margins(0.15)
    for variant, cells in found.items():
        x, y = (
            mean(figure(cell, what).mean() for cell in cells.values()) for what in ("likeness", "obedience")
        )
        axes.plot(x, y, "o")
        axes.annotate(variant, (x, y), xytext=(5, 3), textcoords="offset points")
    chart.savefig(path)


def generate(
    bundle: Bundle,
    prompts: Sequence[str],
    embeddings: Sequence[lab.Embedding],
    seeds: Sequence[int] = SEEDS,
    steps: int | None = None,
) -> list[Image.Image]:
    """Each prompt's images, in as many denoising steps, or else the model's own number."""
    results = lab.generate(
        bundle, prompt=list(prompts), seeds=list(seeds), steps=steps, embeddings=embeddings
    )
    return [result.image for result in results]


def features(clip: Seeing, images: Sequence[Image.Image]) -> Tensor:
    with torch.no_grad():
        return clip.images(to_tensor(images))


def similarity(made: Tensor, real: Tensor) -> float:
    """Mean cosine of every made image to every real one."""
    return float((made @ real.T).mean())


if __name__ == "__main__":
    main()

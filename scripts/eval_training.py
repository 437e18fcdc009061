"""How well embeddings are learned on the bundled model: how like, and whether prompts are still obeyed.

    python -m scripts.eval_training [--out outputs/eval-training] [--only owl candle] [--seeds 0 1]
        [--variant lab --variant adamw optimizer=adamw --variant stock loop=150 --variant words text=own ...]

For each folder of lab/assets/samples, which the model has never seen, and each variant and seed it learns by
configs/train/emoji-object.yaml with the variant's settings on top, and makes images of fourteen prompts (obedience.py)
on backgrounds and beside things that no image showed it. Of those without anything beside the thing it prints the
likeness, the mean cosine to images kept apart (lab/assets/samples_test); of all, the share that shows what was asked
for. Both are judged by the network of scripts/pretrain/judge.py, which had no part in learning. A variant may also be a
stock loop's steps (`loop=150`, scripts/stock_training.py; `init=` says where it begins) or words alone (`text=own`: the
thing's name; `text=red apple`). A style is learned by configs/train/emoji-style.yaml, and what is made of the captions
of the images kept apart, which show other objects, is held each against its own image.

Differences are from the first variant, paired by thing, seed, prompt and noise, with 95 % intervals over things; noise
is the standard error that comes from the images alone. Every cell is a line of measured.jsonl in the folder, and the
same command goes on where it was interrupted.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

import lab
from lab.comparing.statistics import Array, measure
from lab.images import to_tensor
from lab.models.bundle import Bundle
from lab.models.patches import frozen
from lab.score.clip import Seeing, image_features
from lab.training.prepare import prepare
from scripts.obedience import KINDS, Context, JudgeOfRenderings, contexts
from scripts.stock_training import Stock

LEARN_FROM, KEPT_APART = Path("lab/assets/samples"), Path("lab/assets/samples_test")
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
        "--variant",
        nargs="+",
        action="append",
        metavar="NAME [KEY=VALUE ...]",
        help="repeatable; by default lab alone",
    )
    arguments = parser.parse_args()
    variants = {
        name: {key: yaml.safe_load(value) for key, value in (each.split("=", 1) for each in settings)}
        for name, *settings in arguments.variant or [["lab"]]
    }
    folders = sorted(path.name for path in LEARN_FROM.iterdir() if path.is_dir())
    names = arguments.only or [name for name in folders if not name.endswith("style")]
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "measured.jsonl"
    bundle = lab.load("emoji", dtype=arguments.dtype)
    bench = Bench(bundle, JudgeOfRenderings(), arguments.image_seeds, arguments.image_steps)
    for seed in arguments.seeds:
        for name in names:
            for variant, settings in variants.items():
                if not any(same(cell, variant, settings, name, seed) for cell in read(file)):
                    cell = bench.cell(name, variant, settings, seed)
                    with file.open("a", encoding="utf-8") as lines:
                        lines.write(json.dumps(cell) + "\n")
                    print(f"{name:14} seed {seed}  {line([cell])}", flush=True)
    report([cell for cell in read(file) if cell["thing"] in names], list(variants))


class Bench:
    """Learns things and looks at what is made of them."""

    def __init__(self, bundle: Bundle, judge: JudgeOfRenderings, seeds: Sequence[int], image_steps: int):
        self.bundle, self.judge, self.seeds, self.image_steps = bundle, judge, seeds, image_steps

    def cell(self, name: str, variant: str, settings: Mapping[str, Any], seed: int) -> Cell:
        """One thing, learned in one way: what it took, and what the judge says of each image."""
        began = time.perf_counter()
        word, embeddings, took = self.learn(name, settings, seed)
        seconds = time.perf_counter() - began
        asked = style_asked(name) if is_style(name) else things_asked(name)
        texts = [each.prompt.replace("{name}", word) for each in asked]
        made = generate(self.bundle, texts, embeddings, self.seeds, self.image_steps)
        asked = [each for each in asked for _ in self.seeds]
        apart = image_features(self.judge, sorted((KEPT_APART / name).glob("*.png")))
        cosines = features(self.judge, made) @ apart.T
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
        self, name: str, settings: Mapping[str, Any], seed: int
    ) -> tuple[str, list[lab.Embedding], Cell]:
        """What stands for the thing in prompts, the embeddings that it takes, and how many steps led to which norm."""
        if "text" in settings:
            own = name.replace("-style", "").replace("-", " ")
            return (own if settings["text"] == "own" else settings["text"]), [], {"step": 0, "norm": 0.0}
        given = {key: value for key, value in settings.items() if key != "loop"}
        fixed = {"images": LEARN_FROM / name, "name": f"my-{name}", "preview_every": 0, "seed": seed}
        config = lab.TrainConfig.read(RECIPES["style" if is_style(name) else "concept"], fixed | given)
        if "loop" in settings:
            loop, steps = Stock(prepare(self.bundle, config)), int(settings["loop"])
            with frozen(self.bundle):
                for _ in range(steps):
                    loop.step()
            learned = loop.embedding()
        else:
            with tempfile.TemporaryDirectory() as out:
                learned = lab.train(self.bundle, config, out=Path(out) / "run")
                lines = (Path(out) / "run" / "progress.jsonl").read_text(encoding="utf-8").splitlines()
            steps = json.loads(lines[-1])["step"]
        norm = float(next(iter(learned.vectors.values())).norm(dim=1).mean())
        return f"<{learned.name}>", [learned], {"step": steps, "norm": round(norm, 3)}


def read(file: Path) -> list[Cell]:
    """The cells that were measured so far."""
    if not file.is_file():
        return []
    return [json.loads(text) for text in file.read_text(encoding="utf-8").splitlines()]


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


FIGURES = ("likeness", "obedience", *KINDS)


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


def report(cells: Sequence[Cell], variants: Sequence[str]) -> None:
    """Every variant's means, and how they differ from the first one's in the cells that both have."""
    found = {
        variant: {(c["thing"], c["seed"]): c for c in cells if c["variant"] == variant}
        for variant in variants
    }
    print()
    for variant in variants:
        print(line(list(found[variant].values())))
    first = found[variants[0]]
    for variant in variants[1:]:
        both = sorted(first.keys() & found[variant].keys())
        things = sorted({thing for thing, _ in both})
        print(f"{variant} less {variants[0]}, {len(both)} cells of {len(things)} things:")
        for what in (each for each in FIGURES if all(len(figure(first[key], each)) for key in both)):
            pairs = [figure(found[variant][key], what) - figure(first[key], what) for key in both]
            units = [
                [pair.mean() for key, pair in zip(both, pairs, strict=True) if key[0] == thing]
                for thing in things
            ]
            effect = measure(np.array([[np.mean(each)] for each in units]))
            noise = np.sqrt(sum(pair.var(ddof=1) / len(pair) for pair in pairs)) / len(pairs)
            span = "" if effect.low is None else f" ({effect.low:+.3f} to {effect.high:+.3f})"
            print(f"  {what:10} {effect.difference:+.3f}{span}, noise {noise:.3f}")


class Asked(NamedTuple):
    """A prompt with a place for {name}, what it asks for, and which of the images kept apart it is held against."""

    prompt: str
    context: Context
    held_against: slice = slice(None)


def is_style(name: str) -> bool:
    return name.endswith("style")


def things_asked(name: str) -> list[Asked]:
    """A thing in new contexts; all images kept apart show it."""
    known = {background(caption) for caption in read_contexts(name)}
    return [Asked(each.prompt("a {name}"), each) for each in contexts(list(known), random.Random(name))]


def style_asked(name: str) -> list[Asked]:
    """Other objects in a style: what each image kept apart shows is asked for in words, and held against it alone."""
    captions = read_contexts(name, KEPT_APART)
    return [
        Asked(caption, Context("background", background(caption)), slice(number, number + 1))
        for number, caption in enumerate(captions)
    ]


def background(caption: str) -> str:
    """The colour that a caption of a sample names."""
    return caption.rsplit(" background", 1)[0].rsplit(" ", 1)[-1]


def read_contexts(name: str, folder: Path = LEARN_FROM) -> list[str]:
    """The first caption beside each image to learn from; {name} is where the embedding goes."""
    files = sorted((folder / name).glob("*.txt"))
    return [file.read_text(encoding="utf-8").splitlines()[0] for file in files]


def fill_all(contexts: Sequence[str], name: str) -> list[str]:
    return [context.replace("{name}", name) for context in contexts]


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

"""How well embeddings are learned on the bundled model, with its recipes, from images it has never seen.

    python -m scripts.eval_training [--out outputs/eval-training] [--only owl candle] [--dtype bfloat16]
        [--set optimizer=adamw evaluate_every=10 stop_window=8 ...]

For each folder of lab/assets/samples it trains by configs/train/emoji-object.yaml or emoji-style.yaml, then generates
from the captions of the images it learned from, and prints the mean CLIP cosine to images kept apart
(lab/assets/samples_test): of what is generated (a) without training, where a word that fits anything stands for the
thing; with the initial vectors, which the recipe chooses by looking at the images; (b) with the thing's own name in
words; and with what was learned; and (c) the ceiling, of the images that it learned from, which have the same captions;
and the share of the way from (a) to (c) that was learned. Prompt fidelity is the share of "<token> on a COLOUR
background" images whose border has that colour. A contact sheet shows what was made. The same command goes on where it
was interrupted.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageColor
from torch import Tensor

import lab
from lab.images import to_tensor
from lab.models.bundle import Bundle
from lab.models.config import ModelOptions
from lab.runs.sheet import SheetGroup, write_sheets
from lab.score.clip import Clip, image_features, open_clip
from lab.training.objectives.objective import find_objective
from lab.training.prepare import prepare

LEARN_FROM, KEPT_APART = Path("lab/assets/samples"), Path("lab/assets/samples_test")
RECIPES = {
    "concept": Path("configs/train/emoji-object.yaml"),
    "style": Path("configs/train/emoji-style.yaml"),
}
COLOURS = ("white", "red", "blue", "yellow", "green", "black")
SEEDS = [1, 2]
AIMS = {"concept": 0.70, "style": 0.80}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/eval-training"))
    parser.add_argument("--only", nargs="*", help="folders of lab/assets/samples")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="instead of the recipes'")
    arguments = parser.parse_args()
    bundle = lab.load("emoji", dtype=arguments.dtype)
    clip = open_clip(bundle)
    assert clip is not None, "the bundled model comes with its CLIP"
    names = arguments.only or sorted(path.name for path in LEARN_FROM.iterdir() if path.is_dir())
    rows, shares = [], {"concept": [], "style": []}
    print("name             untrained  initial  words  learned  ceiling  share  colour  steps  seconds")
    for name in names:
        kind = "style" if name.endswith("style") else "concept"
        share, row = evaluate(bundle, clip, name, kind, arguments)
        shares[kind].append(share)
        rows += row
    for kind, found in shares.items():
        if found:
            print(f"{kind}: {sum(found) / len(found):.0%} of the way on average (aim {AIMS[kind]:.0%})")
    print(*write_sheets(arguments.out / "contact-sheet.png", rows), sep="\n")


def evaluate(
    bundle: Bundle, clip: Clip, name: str, kind: str, arguments: argparse.Namespace
) -> tuple[float, list[SheetGroup]]:
    """Trains on one folder, prints its line, and returns the share and rows for the contact sheet."""
    out = arguments.out / name
    changed = dict(each.split("=", 1) for each in arguments.set)
    fixed = {"images": LEARN_FROM / name, "name": f"my-{name}", "preview_every": 0, "out": out}
    config = lab.TrainConfig.read(RECIPES[kind], fixed | changed)
    saved = out / f"{config.name}.safetensors"
    if saved.is_file() and settings(lab.TrainConfig.read(out / "config.yaml", {})) != settings(config):
        raise SystemExit(f"{out}: holds a run with other settings; choose another --out")
    after = lab.read_embedding(saved) if saved.is_file() else lab.train(bundle, config)
    last = json.loads((out / "progress.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    before = prepare(bundle, config).learned.beginnings[config.name].embedding()
    words = "emojione" if kind == "style" else name.replace("-", " ")
    token = f"<my-{name}>" + (" style" if kind == "style" else "")
    contexts = read_contexts(name)
    apart = image_features(clip, sorted((KEPT_APART / name).glob("*.png")))
    real = image_features(clip, sorted((LEARN_FROM / name).glob("*.png")))
    made = {
        "untrained": generate(bundle, fill_all(contexts, find_objective(kind).word), []),
        "initial": generate(bundle, fill_all(contexts, f"<my-{name}>"), [before]),
        "words": generate(bundle, fill_all(contexts, words), []),
        "learned": generate(bundle, fill_all(contexts, f"<my-{name}>"), [after]),
    }
    found = {label: similarity(features(clip, images), apart) for label, images in made.items()}
    ceiling = similarity(real, apart)
    share = (found["learned"] - found["untrained"]) / (ceiling - found["untrained"])
    placed = generate(bundle, [f"{token} on a {colour} background" for colour in COLOURS], [after])
    asked = [colour for colour in COLOURS for _ in SEEDS]
    right = [border_colour(image) == colour for colour, image in zip(asked, placed, strict=True)]
    likeness = "  ".join(
        f"{value:{len(label)}.3f}" for label, value in (found | {"ceiling": ceiling}).items()
    )
    effort = f"{last['step']:5d}  {last['seconds']:7.0f}"
    print(f"{name:16} {likeness}  {share:5.0%}  {sum(right) / len(right):6.0%}  {effort}", flush=True)
    made["in context"] = placed[:: len(SEEDS)]
    return share, contact_rows(out, name, made)


def settings(config: lab.TrainConfig) -> dict[str, object]:
    """Those of a run; which model it was is told by the bundle."""
    return config.model_dump(exclude={*ModelOptions.model_fields})


def read_contexts(name: str) -> list[str]:
    """The first caption beside each image to learn from; {name} is where the embedding goes."""
    files = sorted((LEARN_FROM / name).glob("*.txt"))
    return [file.read_text(encoding="utf-8").splitlines()[0] for file in files]


def fill_all(contexts: Sequence[str], name: str) -> list[str]:
    return [context.replace("{name}", name) for context in contexts]


def generate(
    bundle: Bundle, prompts: Sequence[str], embeddings: Sequence[lab.Embedding]
) -> list[Image.Image]:
    results = lab.generate(bundle, prompt=list(prompts), seeds=SEEDS, embeddings=embeddings)
    return [result.image for result in results]


def features(clip: Clip, images: Sequence[Image.Image]) -> Tensor:
    with torch.no_grad():
        return clip.images(to_tensor(images))


def similarity(made: Tensor, real: Tensor) -> float:
    """Mean cosine of every made image to every real one."""
    return float((made @ real.T).mean())


def border_colour(image: Image.Image) -> str:
    """The one of COLOURS that is nearest the median of the image's outermost pixels."""
    array = np.asarray(image.convert("RGB"), dtype=float)
    edge = np.concatenate([array[:2].reshape(-1, 3), array[-2:].reshape(-1, 3), array[:, :2].reshape(-1, 3)])
    median = np.median(edge, axis=0)
    return min(COLOURS, key=lambda colour: float(np.square(median - ImageColor.getrgb(colour)[:3]).sum()))


def contact_rows(out: Path, name: str, made: dict[str, list[Image.Image]]) -> list[SheetGroup]:
    rows = []
    for label, images in made.items():
        paths = [out / "made" / f"{label.replace(' ', '-')}-{number}.png" for number in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
        rows.append(SheetGroup(f"{name}: {label}", [(path, "") for path in paths]))
    real = sorted((KEPT_APART / name).glob("*.png"))
    return [*rows, SheetGroup(f"{name}: real, kept apart", [(path, path.stem) for path in real])]


if __name__ == "__main__":
    main()

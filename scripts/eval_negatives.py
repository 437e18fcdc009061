"""Whether negative embeddings help: paired seeds against nothing, words and random vectors, with intervals.

    python -m scripts.eval_negatives --negative outputs/train-emoji-reward/emoji-reward.safetensors [more ...]
        [--model emoji] [--dtype bfloat16] [--out outputs/eval-negatives] [--prompts 48] [--seeds 1001-1008]
        [--transfer] [--judge lab/assets/emoji/judge_quality] [--prompt-file FILE] [--clip DIR] [--pickscore DIR]
        [--aesthetic FILE] [--references DIR ...] [--styles noto fluent twemoji]

Every condition meets each prompt with each seed: an empty negative prompt, words, random vectors at the vocabulary's
norm, and each negative embedding (of a pair its negative half). Printed, and written to OUT/negatives.md, are for each:
the share of degraded images by a classifier of pixels that no recipe was trained on, set so that it calls 5 % of the
clean references degraded once they went through the VAE; CLIP similarity to the prompt; the share whose style CLIP
finds right; diversity within a prompt; CMMD to the references. Each with its difference from the empty negative prompt
and a 95 % interval (lab.comparing.statistics). What an embedding leaves of the empty prompt's degraded share is given
as counted, and beyond the judge's false alarms, which no negative prompt can take away. Half of the prompts ask for
combinations of object and style that the bundled model was trained on, half for others; none has an object that the
recipes' prompts have.
--transfer asks at which other guidance scales, schedulers and numbers of steps the embeddings still help.
The same command goes on where it was interrupted. Small and quick: --prompts 6 --seeds 1001-1002 --steps 8.
"""

import argparse
import csv
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import lab
from lab.embeddings.read import read_all
from lab.files import atomic
from lab.images import fit, images_in, open_image, to_tensor
from lab.models.bundle import Bundle
from lab.sample.pixels import posterior, to_pixels
from lab.score.clip import Clip, image_features
from lab.score.config import ScoreOptions
from lab.score.tools import open_tools
from lab.terminal import Bars
from lab.text import read_lines
from lab.training.learned import initial_vectors
from scripts.negative_tables import Array, Found, effect, pairs, report, show, verdict
from scripts.pretrain.caption import with_article
from scripts.pretrain.scene import COLOURS

WORDS = "blurry, pixelated, noisy, washed out, low quality"
LEARNED_ON = Path("configs/train/emoji-reward-prompts.txt")
CLEAN = [Path("lab/assets/samples"), Path("lab/assets/samples_test")]
FALSE_ALARMS = 0.05
OTHER_FALSE_ALARMS = (0.005, 0.01, 0.02, 0.03, 0.08, 0.1)
STYLES = ("noto", "fluent", "twemoji")
GUIDANCES, SCHEDULERS, STEPS = (2.0, 4.0, 7.0, 10.0), ("ddim", "euler", "dpm++2m", "unipc"), (8, 12, 25, 50)


def main() -> None:
    arguments = read_arguments()
    bundle = lab.load(arguments.model, dtype=arguments.dtype)
    prompts, seen = choose_prompts(bundle, arguments)
    negatives = [negative for file in arguments.negative for negative in read_negative(file)]
    count = max((negative.count for negative in negatives), default=8)
    chance = initial_vectors(bundle, "random", count, lab.TrainConfig().generator("random"), "")
    rivals = [*negatives, lab.Embedding("random", chance.vectors, kind="negative")]
    conditions = {"empty": "", "words": WORDS} | {each.name: f"<{each.name}>" for each in reversed(rivals)}
    references = [file for folder in arguments.references for file in images_in(folder)]
    clean = judged_clean(bundle, arguments.judge, references)
    arguments.threshold = threshold(clean, FALSE_ALARMS)
    print(
        f"degraded: above {arguments.threshold:.2f} by the judge, as {FALSE_ALARMS:.0%} of {len(clean)} clean "
        "images are after the VAE"
    )
    found = compare(bundle, arguments, prompts, conditions, rivals, arguments.out / "main")
    lines = [f"{len(prompts)} prompts x {found.features.shape[2]} seeds; {arguments.model}", ""]
    lines += report(list(conditions), found, seen, features_of(open_clip(bundle, arguments), references))
    others = {alarms: threshold(clean, alarms) for alarms in OTHER_FALSE_ALARMS}
    for negative in negatives:
        lines += verdict(found, list(conditions), negative.name, FALSE_ALARMS, others)
    if arguments.transfer:
        lines += transfer(bundle, arguments, prompts, negatives)
    with atomic(arguments.out / "negatives.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"written to {arguments.out / 'negatives.md'}; images and a report in {arguments.out / 'main'}")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--negative", nargs="*", default=[], help="negative embeddings, FILE or FILE=name")
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=Path, default=Path("outputs/eval-negatives"))
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--prompt-file", type=Path, help="instead of the bundled model's own")
    parser.add_argument("--seeds", default="1001-1008")
    parser.add_argument("--styles", nargs="*", default=list(STYLES), help="words of which a prompt has one")
    parser.add_argument("--judge", type=Path, default=Path("lab/assets/emoji/judge_quality"))
    parser.add_argument("--references", type=Path, nargs="+", default=CLEAN, help="folders of clean images")
    for name in ("clip", "pickscore", "aesthetic"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--scheduler")
    parser.add_argument("--transfer", action="store_true")
    parser.add_argument("--transfer-prompts", type=int, default=16)
    parser.add_argument("--transfer-seeds", default="1001-1004")
    return parser.parse_args()


def choose_prompts(
    bundle: Bundle, arguments: argparse.Namespace
) -> tuple[list[str], NDArray[np.bool_] | None]:
    """The prompts, and which of them ask for combinations that the model was trained on, if that is known."""
    if arguments.prompt_file:
        return read_lines(arguments.prompt_file)[: arguments.prompts], None
    known = json.loads((bundle.root / "held_out.json").read_text(encoding="utf-8"))
    order, taken = random.Random(7), " ".join(read_lines(LEARNED_ON))
    unseen = [(name, style) for name, style in known["pairs"] if name not in taken]
    held = {tuple(pair) for pair in known["pairs"]}
    names = [name for name in sorted(known["training_objects"]) if name not in taken]
    seen = [(name, order.choice([s for s in STYLES if (name, s) not in held])) for name in names]
    half = arguments.prompts // 2
    chosen = order.sample(seen, arguments.prompts - half) + order.sample(unseen, half)
    colours = [colour for colour in COLOURS if colour != "white"]
    prompts = [
        f"a {style} emoji of {with_article(name)} on a {order.choice(colours) if place % 2 else 'white'} background"
        for place, (name, style) in enumerate(chosen)
    ]
    return prompts, np.arange(arguments.prompts) < arguments.prompts - half


def read_negative(file: str) -> list[lab.Embedding]:
    """The negative embeddings of a file: of a pair, the negative half."""
    source, _, name = file.partition("=")
    found = read_all(source, name or None)
    return [each for each in found if each.kind == "negative"] or found[:1]


def compare(
    bundle: Bundle,
    arguments: argparse.Namespace,
    prompts: Sequence[str],
    conditions: Mapping[str, str],
    embeddings: Sequence[lab.Embedding],
    out: Path,
    **settings: object,
) -> Found:
    """Runs `lab.compare` over the conditions and reads its table back."""
    rewards = {
        name: getattr(arguments, name) for name in ("pickscore", "aesthetic") if getattr(arguments, name)
    }
    given = {name: getattr(arguments, name) for name in ("steps", "guidance", "scheduler")}
    config = lab.CompareConfig(
        prompts=list(prompts),
        seeds=arguments.seeds,
        axes={"negative_prompt": list(conditions.values())},
        metrics=["clip_text", "degraded", *rewards],
        quality=arguments.judge,
        clip=arguments.clip,
        out=out,
        **rewards,
        **({name: value for name, value in given.items() if value is not None} | settings),
    )
    with Bars() as bars:
        folder = lab.compare(bundle, config, embeddings=embeddings, listener=bars).folder
    with (folder / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    shape = (len(conditions), len(prompts), -1)
    values = {name: np.array([float(row[name]) for row in rows]).reshape(shape) for name in config.metrics}
    clip = open_clip(bundle, arguments)
    features = features_of(clip, [folder / "cells" / Path(row["file"]).name for row in rows])
    values["judged"] = values["degraded"]
    values["degraded"] = (values["judged"] > arguments.threshold).astype(float)
    values["style"] = styles_right(clip, features, [row["prompt"] for row in rows], arguments.styles).reshape(
        shape
    )
    return Found(values, features.reshape(*values["degraded"].shape, -1))


@torch.no_grad()
def features_of(clip: Clip, files: Sequence[Path]) -> Array:
    """(n, p) CLIP features."""
    return image_features(clip, files, most=None).double().cpu().numpy()


def styles_right(clip: Clip, features: Array, prompts: Sequence[str], styles: Sequence[str]) -> Array:
    """(n,) 1 where an image is nearest its own prompt among those with another style in it, else 0; NaN without."""
    right = []
    for row, prompt in zip(features, prompts, strict=True):
        own = next((style for style in styles if style in prompt.split()), None)
        if own is None:
            right.append(np.nan)
            continue
        texts = [prompt.replace(own, style, 1) for style in styles]
        right.append(float(styles[int((clip.texts(texts).double().cpu().numpy() @ row).argmax())] == own))
    return np.array(right)


def open_clip(bundle: Bundle, arguments: argparse.Namespace) -> Clip:
    clip = open_tools(bundle, ScoreOptions(clip=arguments.clip)).clip
    assert clip is not None, "clip_text has been measured"
    return clip


@torch.no_grad()
def judged_clean(bundle: Bundle, judge: Path, files: Sequence[Path]) -> Array:
    """(n,) the judge's probabilities that clean images are degraded, once they went through the VAE, whose own
    softness is no negative prompt's to mend."""
    quality = open_tools(bundle, ScoreOptions(quality=judge)).quality
    assert quality is not None, "asked for by name"
    size, found = (bundle.defaults.width, bundle.defaults.height), []
    for start in range(0, len(files), 8):
        pixels = to_tensor([fit(open_image(file), size) for file in files[start : start + 8]])
        found.append(quality.degraded(to_pixels(bundle, posterior(bundle, pixels * 2 - 1)[0])).cpu())
    return torch.cat(found).double().numpy()


def threshold(clean: Array, false_alarms: float) -> float:
    """The probability above which this share of clean images lies."""
    return float(np.quantile(clean, 1 - false_alarms))


def transfer(
    bundle: Bundle, arguments: argparse.Namespace, prompts: Sequence[str], negatives: Sequence[lab.Embedding]
) -> list[str]:
    """The share of degraded images under other settings, one at a time."""
    some = prompts[:: max(len(prompts) // arguments.transfer_prompts, 1)][: arguments.transfer_prompts]
    arguments = argparse.Namespace(**vars(arguments) | {"seeds": arguments.transfer_seeds})
    conditions = {"empty": ""} | {each.name: f"<{each.name}>" for each in negatives}
    varied: list[tuple[str, float | str]] = [("guidance", value) for value in GUIDANCES]
    varied += [("scheduler", value) for value in SCHEDULERS] + [("steps", value) for value in STEPS]
    rows = []
    for name, value in varied:
        out = arguments.out / "transfer" / f"{name}-{value}"
        found = compare(bundle, arguments, some, conditions, negatives, out, **{name: value})
        table, likeness = found.values["degraded"], found.values["clip_text"]
        cells = [
            f"{pairs(table, place)}; {effect(likeness[place] - likeness[0])}"
            for place in range(1, len(table))
        ]
        rows.append([f"{name} {value}", pairs(table, 0), *cells])
    return [
        "",
        "degraded share; change in CLIP similarity to the prompt",
        "",
        *show(["setting", *conditions], rows),
    ]


if __name__ == "__main__":
    main()

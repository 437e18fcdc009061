"""What the negative methods do at every guidance scale and number of steps: paired seeds against no negative prompt.

    python -m scripts.eval_negative_methods [--negative lab/assets/emoji/negative.safetensors] [--model emoji]
        [--dtype bfloat16] [--prompts 16] [--seeds 1-2] [--guidance 1 2 4 7] [--steps 4 8 25]
        [--judge lab/assets/emoji/judge_quality] [--clip DIR] [--out outputs/eval-negative-methods]

Two questions, on the same noise under every setting. Do images get better: the prompts of `eval_negatives`, avoiding
words for bad images and a learned negative embedding; judged by the classifier that no recipe is trained on, set as
there. Does what is named go away: half of the prompts name a background's colour and half a second object, and that
word is what to avoid; an image still shows it if CLIP finds its background nearest to that colour among twelve, or the
text with both objects nearer than the one with the first alone. Printed, and written to OUT/methods.md, are for each:
the share degraded, the share that still shows the word, CLIP similarity to the prompt (without that word), diversity
within a prompt, each with its difference from no negative prompt at the same scale and steps and a 95 % interval over
prompts; and seconds an image, of processors at work, so that a machine that others use tells the same. NegPiP gets what
is to be avoided in the prompt, as (...:-1), which is how it is used. Each scale with each number of steps is kept in
OUT as it is done: the same command goes on where it was interrupted, and another one adds to the table.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import lab
from lab.files import atomic
from lab.images import images_in, to_tensor
from lab.models.bundle import Bundle
from lab.sample.config import GenerateConfig, Request, parse_seeds
from lab.sample.engine import run_jobs
from lab.sample.negatives import NEGATIVE_METHODS
from lab.sample.plan import plan
from lab.score.clip import Clip
from lab.score.config import ScoreOptions
from lab.score.tools import open_tools
from scripts.eval_negatives import (
    CLEAN,
    FALSE_ALARMS,
    WORDS,
    choose_prompts,
    judged_clean,
    open_clip,
    read_negative,
    threshold,
)
from scripts.negative_tables import Array, diversity_of, pairs, show
from scripts.pretrain.caption import with_article
from scripts.pretrain.scene import COLOURS


class Asked(NamedTuple):
    """A prompt, and what to avoid.

    Attributes:
        wanted: The prompt as its image should be, by which likeness is measured.
        rivals: Texts of which the image shows what is to be avoided if it is nearest to the first; none if that is
            nothing to be seen.
    """

    prompt: str
    avoided: str
    wanted: str
    rivals: tuple[str, ...] = ()


class Made(NamedTuple):
    """The images of some prompts, (prompts, seeds) each: CLIP features (..., p) and the judge's probabilities."""

    features: Array
    degraded: Array
    seconds: float


def main() -> None:
    arguments = read_arguments()
    bundle = lab.load(arguments.model, dtype=arguments.dtype)
    arguments.references = CLEAN
    clean = judged_clean(bundle, arguments.judge, [file for folder in CLEAN for file in images_in(folder)])
    limit, clip = threshold(clean, FALSE_ALARMS), open_clip(bundle, arguments)
    (negative,) = read_negative(str(arguments.negative))
    prompts, _ = choose_prompts(bundle, arguments)
    better = {
        "words": [Asked(prompt, WORDS, prompt) for prompt in prompts],
        "learned": [Asked(prompt, f"<{negative.name}>", prompt) for prompt in prompts],
    }
    gone = forbidding(bundle, arguments.prompts)
    for steps, guidance in product(arguments.steps, arguments.guidance):
        kept = arguments.out / f"{steps:03}-steps-guidance-{guidance:g}.json"
        if kept.is_file():
            continue
        make = maker(bundle, arguments, negative, guidance, steps)
        rows = rows_of(make, better, limit, clip) + rows_of(make, {"the word": gone}, None, clip)
        with atomic(kept) as temporary:
            temporary.write_text(json.dumps(rows), encoding="utf-8")
        print(f"{steps} steps, guidance {guidance:g}", flush=True)
    seeds = len(parse_seeds(arguments.seeds))
    write_table(arguments.out, f"{arguments.model}: {len(prompts)} and {len(gone)} prompts x {seeds} seeds")


def write_table(folder: Path, title: str) -> None:
    """methods.md of all that is kept in the folder, which is also printed."""
    header = ["method", "avoids", "degraded", "still shown", "prompt (CLIP)", "diversity", "s an image"]
    lines = [title]
    for kept in sorted(folder.glob("*-steps-guidance-*.json")):
        steps, guidance = kept.stem.split("-steps-guidance-")
        print(f"\n{int(steps)} steps, guidance {guidance}", flush=True)
        lines += [
            "",
            f"{int(steps)} steps, guidance {guidance}",
            "",
            *show(header, json.loads(kept.read_text())),
        ]
    with atomic(folder / "methods.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"written to {folder / 'methods.md'}")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--negative", type=Path, default=Path("lab/assets/emoji/negative.safetensors"))
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--seeds", default="1-2")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1, 2, 4, 7])
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8, 25])
    parser.add_argument("--judge", type=Path, default=Path("lab/assets/emoji/judge_quality"))
    parser.add_argument("--clip", type=Path)
    parser.add_argument("--out", type=Path, default=Path("outputs/eval-negative-methods"))
    parser.set_defaults(prompt_file=None)
    return parser.parse_args()


def forbidding(bundle: Bundle, count: int) -> list[Asked]:
    """Prompts that name what is to be avoided: half of them a background's colour, half a second object."""
    arguments = argparse.Namespace(prompt_file=None, prompts=count)
    order, asked = random.Random(11), list[Asked]()
    for place, prompt in enumerate(choose_prompts(bundle, arguments)[0]):
        subject = prompt.rpartition(" on a ")[0]
        if place % 2:
            colour = order.choice([name for name in COLOURS if name != "white"])
            others = [name for name in COLOURS if name != colour]
            texts = [f"{subject} on a {name} background" for name in (colour, *others)]
            asked.append(Asked(texts[0], f"{colour} background", subject, tuple(texts)))
        else:
            other = with_article(order.choice(["cat", "house", "sun", "tree", "car", "fish"]))
            both = f"{subject} next to {other}"
            asked.append(Asked(both, other, subject, (both, subject)))
    return asked


Make = Callable[[str, Sequence[Asked]], Made]


def maker(
    bundle: Bundle, arguments: argparse.Namespace, negative: lab.Embedding, guidance: float, steps: int
) -> Make:
    """A function: the images of prompts by a method, on the same noise each time it is asked."""
    quality = open_tools(bundle, ScoreOptions(quality=arguments.judge)).quality
    clip, seeds = open_clip(bundle, arguments), parse_seeds(arguments.seeds)
    assert quality is not None, "asked for by name"

    @torch.no_grad()
    def make(method: str, asked: Sequence[Asked]) -> Made:
        options = GenerateConfig(negative_method=method, guidance=guidance, steps=steps)
        texts = [(each.prompt, each.avoided) for each in asked]
        if NEGATIVE_METHODS[method].negates:
            texts = [(f"{prompt} ({avoided}:-1)", "") for prompt, avoided in texts]
        wanted = [Request(0, *text, seed, options) for text in texts for seed in seeds]
        jobs = plan(bundle, [replace(one, index=place) for place, one in enumerate(wanted)], [negative])
        began = time.process_time()
        samples = sorted(run_jobs(bundle, jobs), key=lambda sample: sample.job.index)
        seconds = (time.process_time() - began) / len(jobs)
        pixels = [to_tensor([sample.image]) for sample in samples]
        judged = torch.cat([quality.degraded(each).cpu() for each in pixels]).double().numpy()
        features = torch.cat([clip.images(each) for each in pixels]).double().cpu().numpy()
        shape = len(asked), len(seeds)
        return Made(features.reshape(*shape, -1), judged.reshape(shape), seconds)

    return make


def rows_of(
    make: Make, questions: dict[str, list[Asked]], limit: float | None, clip: Clip
) -> list[list[str]]:
    """The table's rows for some questions about the same prompts; the first is without a negative prompt."""
    first = next(iter(questions.values()))
    found = [("none", "", make("cfg", [each._replace(avoided="") for each in first]))]
    for method in NEGATIVE_METHODS:
        found += [(method, name, make(method, asked)) for name, asked in questions.items()]
    made = [each for _, _, each in found]
    wanted = embedded(clip, [each.wanted for each in first])
    likeness = np.stack([np.einsum("psd,pd->ps", each.features, wanted) for each in made])
    spread = np.stack([diversity_of(each.features)[:, None] for each in made])
    shown = None if limit is not None else np.stack([shows(each.features, first, clip) for each in made])
    rows = []
    for place, (method, name, each) in enumerate(found):
        bad = None if limit is None else np.stack([one.degraded > limit for one in made]).astype(float)
        cells = ["" if table is None else pairs(table, place) for table in (bad, shown, likeness, spread)]
        rows.append([method, name, *cells, f"{each.seconds:.2f}"])
    return rows


def shows(features: Array, asked: Sequence[Asked], clip: Clip) -> Array:
    """(prompts, seeds) 1 where an image is nearest to the first of its prompt's rivals, else 0."""
    return np.stack(
        [
            (one @ embedded(clip, each.rivals).T).argmax(axis=-1) == 0
            for one, each in zip(features, asked, strict=True)
        ]
    ).astype(float)


def embedded(clip: Clip, texts: Sequence[str]) -> Array:
    """(texts, p) CLIP features."""
    return clip.texts(list(texts)).double().cpu().numpy()


if __name__ == "__main__":
    main()

"""What is left of an embedding in another model: converted as `lab convert` does it, and by the nearest token.

    python -m scripts.eval_conversion [--out outputs/eval-conversion] [--only owl candle] [--back]
    python -m scripts.eval_conversion --from-model hub:org/sd15 --to-model hub:org/sdxl --clip clip-vit-large-patch14
        --embedding my-cat.safetensors --images my-cat --prompt "a photo of {name}" "{name} on a beach"

Without models of yours the other one is made first (`scripts/second_encoder.py`, some minutes), things that the bundled
model never saw are learned there, and their captions are the prompts. It prints the mean CLIP cosine to pictures of the
thing (those kept apart, of the bundled ones) of images made on the same noise: in the embedding's own model; in the
other one by each way; and there, where the file says at which words it began, by these words' vectors. Differences are
from the nearest token, with 95 % intervals over things, or over prompts if there is one thing. `--back` learns in the
second model and converts to the bundled one. What was learned or made is not made again.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import lab
from lab.comparing.statistics import CONFIDENCE, measure
from lab.condition.convert import Converter
from lab.embeddings.embedding import INITIAL_TEXT
from lab.images import images_in, to_tensor
from lab.models.bundle import Bundle
from lab.score.clip import Clip, image_features, open_clip
from lab.training.learned import initial_from_text
from scripts.eval_training import RECIPES
from scripts.second_encoder import make_second
from scripts.things import KEPT_APART, LEARN_FROM, read_contexts

OWN, NEAREST, UNTOUCHED = "its own model", "nearest token", "where it began"
WAYS: dict[str, dict[str, Any]] = {
    NEAREST: {"method": "nearest token"},
    "closed form": {},
    "refined": {"refined": True},
}


class Case(NamedTuple):
    """An embedding, images of what it stands for, and prompts with {name} in its place."""

    embedding: lab.Embedding
    images: list[Path]
    prompts: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from-model", default="emoji")
    parser.add_argument("--to-model", help="by default a second model with the bundled U-Net, made here")
    parser.add_argument("--back", action="store_true", help="from the second model to the bundled one")
    parser.add_argument("--only", nargs="*", help="folders of lab/assets/samples")
    parser.add_argument("--embedding", help="of yours, in place of the bundled things")
    parser.add_argument("--images", type=Path, help="of what the embedding stands for")
    parser.add_argument("--prompt", nargs="*", default=["a photo of {name}"])
    parser.add_argument("--clip", type=Path, help="a folder with a CLIP, for models that bring none")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--seeds", default="1-2")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--prompts", type=int, default=4, help="captions of each bundled thing")
    parser.add_argument("--out", type=Path, default=Path("outputs/eval-conversion"))
    arguments = parser.parse_args()
    second = arguments.to_model or str(make_second(arguments.out / "second"))
    ends = (second, arguments.from_model) if arguments.back else (arguments.from_model, second)
    source, target = (lab.load(end, dtype=arguments.dtype) for end in ends)
    clip = open_clip(source, arguments.clip) or open_clip(target)
    if clip is None:
        raise SystemExit("likeness is told by a CLIP; give one by --clip")
    cases = learned_things(source, arguments)
    if arguments.embedding:
        images = images_in(arguments.images)
        cases = iter([Case(lab.read_embedding(arguments.embedding), images, list(arguments.prompt))])
    print_table(cases, source, target, clip, arguments)


def learned_things(source: Bundle, arguments: argparse.Namespace) -> Iterator[Case]:
    """The bundled things, each learned with its recipe."""
    folders = sorted(path.name for path in LEARN_FROM.iterdir() if path.is_dir())
    for name in arguments.only or [name for name in folders if not name.endswith("style")]:
        out = arguments.out / ("learned-back" if arguments.back else "learned") / name
        given = {"images": LEARN_FROM / name, "name": f"my-{name}", "preview_every": 0, "out": out}
        saved = out / f"my-{name}.safetensors"
        if not saved.is_file():
            lab.train(source, lab.TrainConfig.read(RECIPES["concept"], given))
        yield Case(
            lab.read_embedding(saved), images_in(KEPT_APART / name), read_contexts(name)[: arguments.prompts]
        )


def print_table(
    cases: Iterator[Case], source: Bundle, target: Bundle, clip: Clip, arguments: argparse.Namespace
) -> None:
    """Prints a line a case, the means, and what each way changes from the nearest token."""
    found: dict[str, list[np.ndarray]] = {}
    converter = Converter(source, target)
    for case in cases:
        tried = ways(case.embedding, converter, source, target)
        values = dict(likenesses(case, tried, clip, arguments))
        line = "  ".join(f"{way} {value.mean():.3f}" for way, value in values.items())
        print(f"{case.embedding.name}: {line}", flush=True)
        for way, value in values.items():
            found.setdefault(way, []).append(value)
    print(f"| way | likeness | more than by the nearest token ({CONFIDENCE:.0%}) |")
    print("|---|---|---|")
    for way, rows in found.items():
        pairs = [value - other for value, other in zip(rows, found[NEAREST], strict=True)]
        effect = measure(np.stack([each.ravel() for each in pairs]) if len(pairs) > 1 else pairs[0])
        held = "" if effect.low is None else f" ({effect.low:+.3f} to {effect.high:+.3f})"
        print(f"| {way} | {np.mean(rows):.3f} | {effect.difference:+.3f}{held} |")


def likenesses(
    case: Case, tried: Iterator[tuple[str, Bundle, lab.Embedding]], clip: Clip, arguments: argparse.Namespace
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields by each way the mean cosines (prompts, seeds) to the case's images."""
    embedding, real = case.embedding, image_features(clip, case.images)
    for way, bundle, used in tried:
        prompts = [prompt.replace("{name}", f"<{embedding.name}>") for prompt in case.prompts]
        made = lab.generate(
            bundle, prompt=prompts, seeds=arguments.seeds, steps=arguments.steps, embeddings=[used]
        )
        with torch.no_grad():
            cosines = clip.images(to_tensor([result.image for result in made])) @ real.T
        yield way, cosines.mean(dim=1).view(len(prompts), -1).double().cpu().numpy()


def ways(
    embedding: lab.Embedding, converter: Converter, source: Bundle, target: Bundle
) -> Iterator[tuple[str, Bundle, lab.Embedding]]:
    """Yields the ways with the model that each uses, and its vectors."""
    yield OWN, source, embedding
    for way, settings in WAYS.items():
        yield way, target, converter.convert(embedding, **settings).embedding
    words = embedding.provenance.metadata.get(INITIAL_TEXT)
    if words:
        begun = initial_from_text(target, words, embedding.count).vectors
        yield UNTOUCHED, target, replace(embedding, vectors=begun)


if __name__ == "__main__":
    main()

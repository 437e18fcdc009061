"""Where learning begins: at the nearest words (`--init auto`) or at these brought nearer by CLIP (`contrastive`).

    python -m scripts.eval_init [--out outputs/eval-init] [--only owl candle]

On each of the twelve things that the bundled model never saw it learns by configs/train/emoji-object.yaml from both,
and prints the denoising loss on fixed examples before the first step and of the vectors kept, how many steps were made,
and the CLIP cosine of images made with them to pictures kept apart (four captions, one seed, ten denoising steps).
"""

import argparse
import json
from pathlib import Path
from statistics import mean, stdev

import lab
from lab.models.bundle import Bundle
from lab.score.clip import Clip, image_features, open_clip
from lab.training.prepare import prepare
from scripts.eval_training import RECIPES, features, similarity
from scripts.things import KEPT_APART, LEARN_FROM, fill_all, read_contexts

INITS = ("auto", "contrastive")
PICTURED = 4


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/eval-init"))
    parser.add_argument("--only", nargs="*", help="folders of lab/assets/samples")
    arguments = parser.parse_args()
    bundle = lab.load("emoji")
    clip = open_clip(bundle)
    assert clip is not None, "the bundled model comes with its CLIP"
    folders = sorted(path.name for path in LEARN_FROM.iterdir() if path.is_dir())
    names = arguments.only or [name for name in folders if not name.endswith("style")]
    print("thing            init         first loss  kept loss  step  first cosine  kept cosine")
    found = {init: [evaluate(bundle, clip, name, init, arguments.out) for name in names] for init in INITS}
    for place, label in enumerate(("first loss", "kept loss", "steps", "first cosine", "kept cosine")):
        before, after = ([row[place] for row in found[init]] for init in INITS)
        changes = [new - old for old, new in zip(before, after, strict=True)]
        error = stdev(changes) / len(changes) ** 0.5 if len(changes) > 1 else float("nan")
        print(f"{label}: {mean(before):.4f} -> {mean(after):.4f}, by {mean(changes):+.4f} ± {2 * error:.4f}")


def evaluate(bundle: Bundle, clip: Clip, name: str, init: str, out: Path) -> list[float]:
    """Learns one thing from one beginning and prints its line; returns the numbers in it."""
    folder = out / f"{name}-{init}"
    given = {
        "images": LEARN_FROM / name,
        "name": f"my-{name}",
        "preview_every": 0,
        "init": init,
        "out": folder,
    }
    config = lab.TrainConfig.read(RECIPES["concept"], given)
    run = prepare(bundle, config)
    run.objective.start(run.learned)
    first_loss = sum(float(run.objective.losses(group).detach().sum()) for group in run.objective.fixed())
    before = run.learned.beginnings[f"my-{name}"].embedding()
    after = lab.train(bundle, config)
    lines = [json.loads(line) for line in (folder / "progress.jsonl").read_text("utf-8").splitlines()]
    kept = min((line for line in lines if "fixed_loss" in line), key=lambda line: line["fixed_loss"])
    apart = image_features(clip, sorted((KEPT_APART / name).glob("*.png")))
    prompts = fill_all(read_contexts(name)[:PICTURED], f"<my-{name}>")
    likeness = []
    for embedding in (before, after):
        made = lab.generate(bundle, prompt=prompts, seeds=[1], steps=10, embeddings=[embedding])
        likeness.append(similarity(features(clip, [result.image for result in made]), apart))
    row = [first_loss / config.evaluate_on, kept["fixed_loss"], lines[-1]["step"], *likeness]
    shown = f"{row[0]:10.4f} {row[1]:10.4f} {row[2]:5d} {row[3]:13.3f} {row[4]:12.3f}"
    print(f"{name:16} {init:12} {shown}", flush=True)
    return row


if __name__ == "__main__":
    main()

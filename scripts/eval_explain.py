"""How much of what learned vectors do words do, found by search and by looking at the nearest tokens, bundled model.

    python -m scripts.eval_explain [--out outputs/eval-explain]

For vectors that are the tokens of words, that were learned from words, that are a negative embedding, and that were
learned from pictures, by the U-Net and by CLIP alone, it prints the share of their effect that their nearest tokens
have, and the words found.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import lab
from lab.judging.config import WORDS
from lab.models.bundle import Bundle
from lab.search.explain import explain, nearest_words
from lab.training.learned import initial_from_text

TEXTS = ("red apple", "a sleepy cat on a sofa", "an old castle above the clouds at night")
THINGS = ("backpack", "owl", "candle")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/eval-explain"))
    bundle = lab.load("emoji")
    print("| vectors | nearest tokens | words found | share |")
    print("|---|---|---|---|")
    for label, embedding in embeddings(bundle, parser.parse_args().out):
        *_, found = explain(bundle, embedding)
        near = nearest_words(bundle, embedding)
        print(f"| {label} | {near.share:.0%} | {' '.join(found.words)} | {found.share:.0%} |", flush=True)


def embeddings(bundle: Bundle, out: Path) -> Iterator[tuple[str, lab.Embedding]]:
    """What is explained, with what it is."""
    for text in TEXTS:
        count = len(text.split())
        yield f'"{text}", its tokens', lab.Embedding("said", initial_from_text(bundle, text, count).vectors)
    common = {"preview_every": 0, "vectors": 1}
    learned = lab.train(bundle, objective="text", text=WORDS, name="stands-in", out=out / "text", **common)
    yield f'"{WORDS}", learned as one vector', learned
    yield "the bundled negative", lab.read_embedding("lab/assets/emoji/negative.safetensors")
    for thing in THINGS:
        given = {"images": Path("lab/assets/samples") / thing, "name": f"my-{thing}", "preview_every": 0}
        recipe = lab.TrainConfig.read(Path("configs/train/emoji-object.yaml"), given | {"out": out / thing})
        yield f"{thing}, learned from pictures", lab.train(bundle, recipe)
        seen = given | {
            "objective": "contrastive",
            "in_batch": True,
            "vectors": 2,
            "out": out / f"{thing}-seen",
        }
        yield f"{thing}, by CLIP alone", lab.train(bundle, **seen)


if __name__ == "__main__":
    main()

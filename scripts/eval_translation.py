"""How near a prompt comes in another tool's syntax, over 200 prompts as people write them, on the bundled model.

    python -m scripts.eval_translation [--prompts 200] [--pictured 24]

Each prompt is put together from pieces in the manner of one tool: quality tags under weights, brackets, a subject, a
`BREAK`, a learned embedding. For each pair of tools it prints how many prompts are met exactly, how far off the prompt
embeddings are, as a share of what the prompt does to them, with the weights as they were written and with those that
were solved for; and of the first ones that say something about weights, the PSNR of the images.
"""

import argparse
import random
from collections.abc import Sequence
from statistics import mean, median, quantiles

import torch

import lab
from lab.condition.config import TextOptions
from lab.condition.translate import Translator
from lab.models.bundle import Bundle
from lab.prompt.dialects import DIALECTS
from lab.sample.generate import Result

SUBJECTS = (
    """
a red apple, a sleepy cat on a sofa, portrait of an old sailor, a lighthouse at dusk, two foxes in the snow, a
knight in silver armour, a bowl of ramen, a steam train, a girl with a paper lantern, an owl in a library, a
castle above the clouds, a sports car in the rain, a robot gardener, a mushroom house, a koi pond, a wizard's
desk, a fishing village, a mountain goat, a slice of cake, a violin on a chair
""".replace("\n", " ")
    .strip()
    .split(", ")
)
TAGS = (
    """
masterpiece, best quality, highly detailed, sharp focus, soft light, 8k, cinematic lighting, bokeh, oil
painting, watercolor, flat colours, vivid, film grain, from above, close-up, night, golden hour, intricate,
art by an unknown master, pastel, white background, depth of field, fog, volumetric light
""".replace("\n", " ")
    .strip()
    .split(", ")
)
WEIGHTS = (0.5, 0.7, 0.8, 0.9, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.4, 1.5)
STEPS = 8


def written(dialect: str, rng: random.Random) -> str:
    """A prompt as a user of that tool would write it."""
    pieces = [rng.choice(SUBJECTS), *rng.sample(TAGS, rng.randint(2, 7))]
    if rng.random() < 0.3:
        pieces.append(
            DIALECTS[dialect].mention.format(name="negative") if dialect != "a1111" else "<negative>"
        )
    rng.shuffle(pieces)
    for place in rng.sample(range(len(pieces)), rng.choice((0, 1, 1, 2, 2, 3))):
        pieces[place] = emphasised(pieces[place], dialect, rng)
    text = ", ".join(pieces)
    return text.replace(", ", " BREAK ", 1) if dialect == "a1111" and rng.random() < 0.05 else text


def emphasised(text: str, dialect: str, rng: random.Random) -> str:
    """A piece of a prompt under a weight, in one of the ways that the tool has."""
    weight, emphasis = rng.choice(WEIGHTS), DIALECTS[dialect].emphasis
    assert emphasis is not None, "main takes no other dialects"
    ways = [emphasis.format(text=text, weight=weight)]
    ways += {
        "a1111": [f"({text})", f"(({text}))", f"[{text}]"],
        "comfy": [f"({text})"],
        "compel": [f"({text})++"],
    }[dialect]
    return rng.choice((ways[0], *ways))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--pictured", type=int, default=24)
    arguments = parser.parse_args()
    bundle = lab.load("emoji")
    embedding = lab.read_embedding("lab/assets/emoji/negative.safetensors")
    print("| from | to | met exactly | off by, weights as written | solved for | worst tenth | PSNR (dB) |")
    print("|---|---|---|---|---|---|---|")
    tools = [name for name, dialect in DIALECTS.items() if dialect.emphasis]
    for source in tools:
        rng = random.Random(source)
        prompts = [written(source, rng) for _ in range(arguments.prompts)]
        for to in tools:
            if to != source:
                print(row(bundle, embedding, source, to, prompts, arguments.pictured), flush=True)


def row(
    bundle: Bundle, embedding: lab.Embedding, source: str, to: str, prompts: list[str], pictured: int
) -> str:
    """The line of a pair of tools."""
    translator = Translator(bundle, [embedding], TextOptions(dialect=source), to, STEPS)
    found = [translator.translate(prompt) for prompt in prompts]
    exact = mean(one.carried < 1e-4 or one.residual < 1e-4 for one in found)
    off = [one for one in found if one.carried >= 1e-4]
    texts = [(prompt, one) for prompt, one in zip(prompts, found, strict=True) if one in off][:pictured]
    shown = {"bundle": bundle, "seeds": [1], "steps": STEPS, "embeddings": [embedding]}
    target = pixels(lab.generate(**shown, prompt=[prompt for prompt, _ in texts], dialect=source))
    there = pixels(
        lab.generate(**shown, prompt=[one.text for _, one in texts], dialect=to, bare_names=to == "a1111")
    )
    psnr = [-10 * float(error.log10()) for error in (there - target).square().mean(dim=1)]
    worst = quantiles([one.residual for one in off], n=10)[-1]
    carried, solved = (median(getattr(one, kind) for one in off) for kind in ("carried", "residual"))
    return (
        f"| {source} | {to} | {exact:.0%} | {carried:.1%} | {solved:.1%} | {worst:.1%} | {median(psnr):.1f} |"
    )


def pixels(results: Sequence[Result]) -> torch.Tensor:
    """(n, values) in 0..1."""
    return torch.stack([torch.tensor(list(result.image.tobytes())) / 255 for result in results])


if __name__ == "__main__":
    main()

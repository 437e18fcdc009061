"""How much faster prompts are encoded together than one at a time, and what parsing costs.

    python -m scripts.bench_encode --model emoji --prompts 1000

Both sides encode the same distinct prompts and their negative prompt with the same modules: `encode_pairs`, which
encodes each distinct text once and in batches, and the diffusers pipeline's `encode_prompt`, called once a prompt
as its own `__call__` does, in the same precision. Turns alternate, so that a busy machine slows both; medians are
compared.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import torch

from lab.condition.config import TextOptions
from lab.models.load import load
from lab.prompt.parse import parse, resolve
from lab.sample.plan import encode_pairs

COLOURS = ["red", "green", "blue", "white", "black", "golden", "silver", "pink", "brown", "orange"]
THINGS = ["apple", "cat", "house", "bicycle", "tree", "robot", "castle", "fish", "violin", "lantern"]
PLACES = [
    "on a beach",
    "in the snow",
    "at night",
    "under water",
    "in a garden",
    "on the moon",
    "in fog",
    "at dawn",
    "indoors",
    "by a lake",
]
NEGATIVE = "blurry, low quality"


def main() -> None:
    """Runs the benchmark and prints medians and ratios."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--model", default="emoji")
    options.add_argument("--device", default="cpu")
    options.add_argument("--dtype", default="bfloat16")
    options.add_argument("--prompts", type=int, default=1000)
    options.add_argument("--turns", type=int, default=5)
    arguments = options.parse_args()
    bundle = load(arguments.model, device=arguments.device, dtype=arguments.dtype)
    pipeline = bundle.pipeline()
    prompts = make_prompts(arguments.prompts)
    text = TextOptions()

    def together() -> None:
        encode_pairs(bundle, [(prompt, NEGATIVE) for prompt in prompts], (), text, 20)

    def one_at_a_time() -> None:
        for prompt in prompts:
            pipeline.encode_prompt(
                prompt,
                device=bundle.device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=True,
                negative_prompt=NEGATIVE,
            )

    def parsing() -> None:
        for prompt in prompts:
            resolve(parse(prompt), 20)

    print(f"{bundle.device.type}, {bundle.dtype}, {torch.get_num_threads()} threads")
    with torch.inference_mode(), bundle.autocast():
        times: dict[Callable[[], None], list[float]] = {
            work: [] for work in (together, one_at_a_time, parsing)
        }
        for turn, work in itertools.product(range(arguments.turns + 1), times):
            seconds = timed(work)
            if turn:  # the first turn warms up
                times[work].append(seconds)
    medians = {work.__name__: statistics.median(seconds) for work, seconds in times.items()}
    for name, seconds in medians.items():
        print(f"{name:<14} {seconds:8.3f} s, {1000 * seconds / len(prompts):.3f} ms a prompt")
    print(f"together is {medians['one_at_a_time'] / medians['together']:.1f} times as fast as one at a time")
    print(f"parsing takes {100 * medians['parsing'] / medians['together']:.1f} % of encoding together")


def make_prompts(count: int) -> list[str]:
    """Distinct prompts with weights in them, up to 10,000."""
    products = itertools.product(COLOURS, THINGS, PLACES, COLOURS)
    return [f"a ({one}:1.2) {thing} {place}, {other} frame" for one, thing, place, other in products][:count]


def timed(work: Callable[[], None]) -> float:
    """Seconds that a call takes."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

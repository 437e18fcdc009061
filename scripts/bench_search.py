"""What an ivf index finds of what a flat index finds, and how long both take.

    python -m scripts.bench_search [--model emoji] [--prompts 10000] [--queries 500] [--top 10]

Makes a prompt library, encodes it in one go, and prints for flat-ip and ivf the time to build and to search, and the
recall of ivf: the share of the nearest neighbours by flat-ip that it also gives. A second part does the same for
more vectors than anyone wants to encode for a benchmark: the library's own, with noise.
"""

import argparse
import itertools
import random
import resource
import time

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import lab
from lab.search.features import BundleFeatures
from lab.search.index import Index, VectorSpace
from lab.search.search import encode_rows
from lab.search.sources import IndexRow

THINGS = (
    "apple",
    "cat",
    "dog",
    "rocket",
    "cactus",
    "guitar",
    "octopus",
    "snail",
    "tent",
    "house",
    "train",
    "duck",
)
COLOURS = (
    "white",
    "blue",
    "yellow",
    "green",
    "pink",
    "black",
    "red",
    "orange",
    "purple",
    "brown",
    "grey",
    "teal",
)
STYLES = ("noto", "fluent", "twemoji", "watercolour", "photo", "pixel art", "oil painting")
PLACES = ("on the left", "at the top", "in the bottom right corner", "in the rain", "at night", "on a table")
NOISE = 0.3
"""Of the second part, as a share of a vector's length."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="emoji", help="the bundled model or a diffusers folder")
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--vectors", type=int, default=100_000, help="of the second part; 0 leaves it out")
    parser.add_argument("--top", type=int, default=10)
    arguments = parser.parse_args()
    bundle = lab.load(arguments.model)
    features = BundleFeatures(bundle)
    space = features.space
    texts = library(arguments.prompts + arguments.queries)
    rows = [IndexRow("prompt", text, "", text) for text in texts]
    began = time.perf_counter()
    vectors = encode_rows(rows, features)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"{len(rows)} prompts encoded in {seconds:.0f} s ({len(rows) / seconds:.0f}/s), peak {peak:.0f} MB")
    table = Table("vectors", "index", "build s", "searches/s", f"recall@{arguments.top}")
    stored, queries = vectors[: arguments.prompts], vectors[arguments.prompts :]
    compare(table, space, stored, queries, arguments.top)
    if arguments.vectors:
        compare(table, space, noisy(stored, arguments.vectors), queries, arguments.top)
    Console(width=140).print(table)


def library(count: int) -> list[str]:
    """Distinct prompts as a library has them, in random order."""
    pairs = itertools.product(STYLES, THINGS, COLOURS, PLACES, THINGS)
    order = random.Random(0)
    all_prompts = [
        f"{style} of a {colour} {thing} {place} and a {other}" for style, thing, colour, place, other in pairs
    ]
    if count > len(all_prompts):
        raise SystemExit(f"--prompts and --queries: at most {len(all_prompts)} together")
    return order.sample(all_prompts, count)


def noisy(vectors: Tensor, count: int) -> Tensor:
    """`count` vectors around the given ones."""
    generator = torch.Generator().manual_seed(0)
    repeated = vectors.repeat(-(-count // len(vectors)), 1)[:count]
    noise = torch.randn(repeated.shape, generator=generator) * (NOISE / repeated.shape[1] ** 0.5)
    return repeated + noise * repeated.norm(dim=1, keepdim=True)


def compare(table: Table, space: VectorSpace, stored: Tensor, queries: Tensor, top: int) -> None:
    """Two rows of the table."""
    rows = [IndexRow("prompt", str(place), "", str(place)) for place in range(len(stored))]
    exact: list[set[str]] = []
    for kind in ("flat-ip", "ivf"):
        began = time.perf_counter()
        index = Index.build(kind, space, rows, stored)
        built = time.perf_counter()
        hits = index.search(queries, top)
        searched = time.perf_counter()
        found = [{hit.row.text for hit in some} for some in hits]
        exact = exact or found
        recall = sum(len(one & other) for one, other in zip(exact, found, strict=True)) / (top * len(queries))
        speed = len(queries) / (searched - built)
        table.add_row(str(len(stored)), kind, f"{built - began:.2f}", f"{speed:.0f}", f"{recall:.3f}")


if __name__ == "__main__":
    main()

"""How often the intervals of a comparison hold the true effect, and how often p finds one that is not there.

    python -m scripts.sim_intervals [--experiments 20000]

Simulated experiments of 2 to 64 prompts with 1, 2, 4 or 8 seeds. The differences of pairs are normal, skewed
(exponential) or heavy-tailed (Student's t of 3 degrees), with standard deviation 1; their means vary between prompts by
the same law and deviation, or not at all.
Printed is the share of experiments whose 95 % interval (`lab.comparing.statistics.interval`) holds the true mean, which
is also one less the share of false alarms of p at 0.05: both answer the same question, and every experiment is asked
whether they agree. "-" stands where there are too few pairs, and the report says that there is no interval. Beside it
stands plain Student's t.
"""

import argparse
import itertools

import numpy as np
from scipy import stats

from lab.comparing.statistics import CONFIDENCE, FEWEST, Array, interval, p_value

PROMPTS, SEEDS = (2, 3, 4, 6, 8, 12, 16, 32, 64), (1, 2, 4, 8)
LAWS = {
    "normal": lambda generator, shape: generator.standard_normal(shape),
    "skewed": lambda generator, shape: generator.exponential(size=shape) - 1,
    "heavy": lambda generator, shape: generator.standard_t(3, size=shape) / np.sqrt(3),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiments", type=int, default=20_000)
    arguments = parser.parse_args()
    print(f"{'':34}" + "".join(f"{count:>8}" for count in PROMPTS) + "  prompts")
    every: list[float] = []
    for law, between, seeds in itertools.product(LAWS, (0, 1), SEEDS):
        found = [coverage(law, between, count, seeds, arguments.experiments) for count in PROMPTS]
        every += [own for own, _ in found if own is not None]
        about = f"{law}, {'between prompts too' if between else 'same for prompts'}, {seeds} seeds"
        print(f"{about:<34}" + "".join("       -" if own is None else f"{own:8.1%}" for own, _ in found))
        print(f"{'  plain t':<34}" + "".join(f"{plain:8.1%}" for _, plain in found))
    print(f"intervals hold the effect in {min(every):.1%} to {max(every):.1%} of experiments,")
    print(f"so that false alarms are {1 - max(every):.1%} to {1 - min(every):.1%}")


def coverage(
    law: str, between: float, prompts: int, seeds: int, experiments: int
) -> tuple[float | None, float]:
    """The share of experiments whose interval holds the true mean, 0, or None where there is none; and plain t's."""
    generator = np.random.default_rng([prompts, seeds])
    pairs: Array = LAWS[law](generator, (experiments, prompts, seeds))
    means = pairs.mean(axis=2) + between * LAWS[law](generator, (experiments, prompts))
    bound = stats.t.ppf(0.975, prompts - 1) * means.std(axis=1, ddof=1) / np.sqrt(prompts)
    plain = float((np.abs(means.mean(axis=1)) <= bound).mean())
    if prompts * seeds < FEWEST:
        return None, plain
    low, high = interval(means)
    held = (low <= 0) & (high >= 0)
    assert (held == (p_value(means) > 1 - CONFIDENCE)).all(), "interval and p disagree"
    return float(held.mean()), plain


if __name__ == "__main__":
    main()

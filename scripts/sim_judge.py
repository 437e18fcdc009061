"""What stopping early costs and saves: `lab judge` in simulated experiments, beside a fixed number of prompts.

    python -m scripts.sim_judge [--experiments 1000] [--prompts 64]

Each experiment has blocks of eight prompts with two seeds. Differences of pairs have standard deviation 1 and vary
between prompts as much; normal ones, skewed ones (exponential), heavy-tailed ones (Student's t of 3 degrees) and rare
ones (one pair in ten differs, by its whole size). Printed are the false alarms where there is no effect: of the lab,
which looks after each block, and of 95 % intervals for a fixed number of prompts, once at the end and if one looks with
them after each block. Then, of effects in standard deviations of a prompt, how often they are found (power), after how
many prompts on average the lab stops, and the same for a fixed number of prompts.
"""

import argparse
from collections.abc import Callable

import numpy as np

from lab.comparing.statistics import Array, anytime_interval, interval

BLOCK, SEEDS = 8, 2
EFFECTS = (0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 1.5)
LAWS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {
    "normal": lambda generator, shape: generator.standard_normal(shape),
    "skewed": lambda generator, shape: generator.exponential(size=shape) - 1,
    "heavy-tailed": lambda generator, shape: generator.standard_t(3, size=shape) / np.sqrt(3),
    "rare": lambda generator, shape: (generator.random(shape) < 0.1) * generator.choice([-1.0, 1.0], shape),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiments", type=int, default=1000)
    parser.add_argument("--prompts", type=int, default=64)
    arguments = parser.parse_args()
    looks = np.arange(BLOCK, arguments.prompts + 1, BLOCK)
    print(f"false alarms in {arguments.experiments} experiments without an effect, {len(looks)} looks")
    print(f"{'':14}{'lab judge':>12}{'fixed':>12}{'fixed, peeking':>16}")
    for law in LAWS:
        units = draw(law, arguments.experiments, arguments.prompts)
        found, peeked = (excluded(units, looks, ask) for ask in (anytime_interval, interval))
        early, fixed, peeking = found.any(axis=1), peeked[:, -1], peeked.any(axis=1)
        print(f"{law:14}{early.mean():12.1%}{fixed.mean():12.1%}{peeking.mean():16.1%}")
    print(f"\neffects (normal), at most {arguments.prompts} prompts")
    print(f"{'effect':14}{'power':>12}{'fixed':>12}{'prompts':>12}{'images saved':>14}")
    for effect in EFFECTS:
        units = draw("normal", arguments.experiments, arguments.prompts) + effect
        found, fixed = excluded(units, looks, anytime_interval), excluded(units, looks[-1:], interval)
        stopped = np.where(found.any(axis=1), looks[found.argmax(axis=1)], arguments.prompts)
        saved = 1 - stopped.mean() / arguments.prompts
        power = found.any(axis=1).mean()
        print(f"{f'{effect:g} sd':14}{power:12.0%}{fixed.mean():12.0%}{stopped.mean():12.1f}{saved:14.0%}")


def draw(law: str, experiments: int, prompts: int) -> Array:
    """Means of prompts (experiments, prompts) without an effect, of standard deviation 1."""
    generator = np.random.default_rng(sum(map(ord, law)))
    pairs = LAWS[law](generator, (experiments, prompts, SEEDS)).mean(axis=2)
    if law == "rare":  # they do not vary between prompts
        return pairs / np.sqrt(0.1 / SEEDS)
    return (pairs + LAWS[law](generator, (experiments, prompts))) / np.sqrt(1 + 1 / SEEDS)


def excluded(units: Array, looks: Array, ask: Callable[[Array], tuple[Array, Array]]) -> Array:
    """Whether zero lies outside of the interval (experiments, looks)."""
    found = []
    for count in looks:
        with np.errstate(divide="ignore", invalid="ignore"):  # where no pair differs
            low, high = ask(units[:, :count])
        found.append((low > 0) | (high < 0))
    return np.stack(found, axis=1)


if __name__ == "__main__":
    main()

"""The learning rate over the steps of a run: a pure function, so that nothing has to be restored."""

import math


def learning_rate(step: int, steps: int, peak: float, warmup: int, schedule: str) -> float:
    """The rate at a step counted from 0: a linear rise over `warmup` steps, then constant, or a cosine to 0."""
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if schedule == "constant":
        return peak
    share = (step - warmup) / max(steps - warmup, 1)
    return peak * 0.5 * (1 + math.cos(math.pi * share))

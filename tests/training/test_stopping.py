import math
from itertools import pairwise

import pytest

from lab.training.loop import Stopping, learning_rate


def test_dvar_stops_on_a_plateau_and_not_before():
    falling = [math.exp(-step / 4) for step in range(200)]
    stopping = Stopping(window=8, ratio=0.1)
    first = next(count for count in range(1, 200) if stopping.converged(falling[:count]))
    window, so_far = falling[first - 8 : first], falling[:first]

    def variance(values):
        mean = sum(values) / len(values)
        return sum((value - mean) ** 2 for value in values) / len(values)

    assert variance(window) / variance(so_far) < 0.1
    assert first >= 16 and falling[first - 1] < 0.1
    assert not any(stopping.converged([1 - step / 200 for step in range(count)]) for count in range(1, 25))


def test_a_constant_objective_never_counts_as_settled():
    assert not Stopping(4, 0.1).converged([0.5] * 50)


def test_learning_rate_rises_then_holds_or_falls_to_zero():
    constant = [learning_rate(step, 100, 1.0, 9, "constant") for step in range(100)]
    assert constant[:3] == pytest.approx([0.1, 0.2, 0.3]) and set(constant[9:]) == {1.0}
    cosine = [learning_rate(step, 100, 2.0, 10, "cosine") for step in range(101)]
    assert cosine[10] == 2.0 and cosine[55] == pytest.approx(1.0) and cosine[100] == pytest.approx(0)
    assert all(later <= earlier for earlier, later in pairwise(cosine[10:]))

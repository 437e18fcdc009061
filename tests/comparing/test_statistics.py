"""The statistics on made-up data with known effects."""

import numpy as np
import pytest

from lab.comparing import statistics
from lab.comparing.statistics import bootstrap, holm, measure, sign_flip


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)


def experiments(count, prompts, seeds, effect, between, seed=0):
    """Differences with a known mean effect, which varies between prompts (sd `between`) and seeds (sd 1)."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        of_prompts = between * generator.standard_normal((prompts, 1))
        yield effect + of_prompts + generator.standard_normal((prompts, seeds))


@pytest.mark.parametrize(
    ("prompts", "seeds", "between", "least"),
    [(4, 6, 0.3, 0.91), (16, 4, 1.0, 0.91), (24, 3, 0.3, 0.93), (1, 12, 0.0, 0.91), (1, 4, 0.0, 0.91)],
)
def test_intervals_cover_the_known_effect(prompts, seeds, between, least):
    generator, effect = np.random.default_rng(1), 0.5
    intervals = [bootstrap(d, generator) for d in experiments(200, prompts, seeds, effect, between)]
    covered = np.mean([low <= effect <= high for low, high in intervals])
    assert least <= covered <= 1.0


def test_intervals_shrink_with_data():
    generator = np.random.default_rng(1)
    widths = []
    for prompts in (4, 16, 64):
        low, high = bootstrap(next(experiments(1, prompts, 4, 0.5, 0.3)), generator)
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2]


@pytest.mark.parametrize("shape", [(2, 5), (4, 6)])
def test_false_positives_are_as_rare_as_said(shape):
    generator = np.random.default_rng(2)
    found = [sign_flip(d.ravel(), generator) <= 0.05 for d in experiments(400, *shape, 0.0, 0.0)]
    assert np.mean(found) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_a_table_without_effects_is_rarely_called_one():
    """Holm keeps the chance of any false positive among 10 tests at 5 %."""
    generator, wrong = np.random.default_rng(3), 0
    for table in range(150):
        p = [sign_flip(d.ravel(), generator) for d in experiments(10, 3, 6, 0.0, 0.0, seed=table)]
        wrong += min(holm(p)) <= 0.05
    assert wrong / 150 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 150)


def test_a_large_effect_is_found():
    effect = measure(next(experiments(1, 8, 8, 1.0, 0.2)))
    assert effect.low > 0 and effect.p < 0.01 and effect.win_rate > 0.7 and effect.n == 64
    assert effect.low < effect.difference < effect.high


def test_sign_flips_by_hand():
    assert sign_flip(np.array([1.0, 2.0, 3.0]), np.random.default_rng()) == pytest.approx(2 / 8)
    assert sign_flip(np.array([1.0, -1.0]), np.random.default_rng()) == 1
    assert sign_flip(np.zeros(5), np.random.default_rng()) == 1


def test_holm_by_hand():
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_ties_count_half_and_one_seed_has_no_interval():
    effect = measure(np.array([[1.0], [0.0], [-1.0], [2.0]]))
    assert effect.win_rate == 0.625 and effect.low is None and effect.high is None and effect.p is not None
    alone = measure(np.array([[0.3]]))
    assert (alone.p, alone.low, alone.n, alone.difference) == (None, None, 1, 0.3)
    assert (effect.equal, alone.equal, measure(np.zeros((2, 3))).equal) == (1, 0, 6)


def test_the_same_data_gives_the_same_numbers():
    differences = next(experiments(1, 5, 5, 0.2, 0.5))
    assert measure(differences) == measure(differences)

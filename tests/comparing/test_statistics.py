"""The statistics on made-up data with known effects."""

import numpy as np
import pytest
from scipy import stats

from lab.comparing.statistics import holm, interval, measure, p_value

SKEWED = np.array([0.1, 0.2, 0.2, 0.4, 1.5, 3.0])


def experiments(count, prompts, seeds, effect, between, seed=0):
    """Differences with a known mean effect, which varies between prompts (sd `between`) and seeds (sd 1)."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        of_prompts = between * generator.standard_normal((prompts, 1))
        yield effect + of_prompts + generator.standard_normal((prompts, seeds))


LAWS = {
    "normal": lambda generator, shape: generator.standard_normal(shape),
    "skewed": lambda generator, shape: generator.exponential(size=shape) - 1,
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("between", [0, 1])
@pytest.mark.parametrize(("prompts", "seeds"), [(2, 3), (3, 2), (4, 6), (6, 1), (16, 4), (64, 2)])
def test_intervals_hold_the_effect_as_often_as_said(law, between, prompts, seeds):
    generator, count = np.random.default_rng(1), 4000
    means = LAWS[law](generator, (count, prompts, seeds)).mean(axis=2)
    means += between * LAWS[law](generator, (count, prompts))
    low, high = interval(means)
    held = (low <= 0) & (high >= 0)
    assert 0.93 <= held.mean() <= 0.97
    assert (held == (p_value(means) > 0.05)).all(), "interval and p answer the same question"


def test_the_unit_is_the_prompt():
    """Sixteen pairs of four prompts, of which each shifts its own seeds alike, are no sixteen witnesses."""
    alike = np.array([[0.1], [3.0], [-0.2], [0.2]]) + 0.01 * np.arange(4)
    effect = measure(alike)
    assert effect.win_rate == 0.75 and effect.p > 0.05 and effect.low < 0 < effect.high


def test_without_skewness_it_is_the_t_test():
    units = np.array([1.0, 2.0, 3.0, 4.0] * 4)
    low, high = interval(units)
    expected = stats.ttest_1samp(units, 0)
    assert p_value(units) == pytest.approx(expected.pvalue)
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval()))


def test_intervals_shrink_with_data():
    low, high = map(np.array, zip(*(interval(np.tile(SKEWED, n)) for n in (1, 4, 16)), strict=True))
    widths = high - low
    assert widths[0] > widths[1] > widths[2]


def test_too_few_pairs_have_neither_interval_nor_p():
    for pairs in ([[0.3]], [[0.3, 0.5], [0.1, 0.2]], [[0.1, 0.2, 0.3, 0.4, 0.5]]):
        effect = measure(np.array(pairs))
        assert (effect.low, effect.high, effect.p) == (None, None, None)
    assert measure(np.full((4, 4), 0.25)).low is None, "the same everywhere: nothing says how it varies"


def test_a_large_effect_is_found():
    effect = measure(next(experiments(1, 16, 4, 1.0, 0.2)))
    assert effect.low > 0 and effect.p < 0.01 and effect.win_rate > 0.7 and effect.n == 64
    assert effect.low < effect.difference < effect.high


def test_holm_by_hand():
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_ties_count_half():
    effect = measure(np.array([[1.0], [0.0], [-1.0], [2.0]]))
    assert (effect.win_rate, effect.equal, effect.n, effect.difference) == (0.625, 1, 4, 0.5)
    unchanged = measure(np.zeros((2, 3)))
    assert (unchanged.equal, unchanged.low, unchanged.high, unchanged.p) == (6, 0, 0, 1)

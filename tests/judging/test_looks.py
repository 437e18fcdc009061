"""Looks at effects: when a question is answered, and how often that is wrong."""

import numpy as np
import pytest

from lab.comparing.statistics import anytime_interval, anytime_reach, units_needed
from lab.judging.looks import NOTHING_FROM, Look, forecast, ranks, take_look

LAWS = {
    "normal": lambda generator, shape: generator.standard_normal(shape),
    "skewed": lambda generator, shape: generator.exponential(size=shape) - 1,
}


@pytest.mark.parametrize("law", LAWS)
def test_a_thousand_null_experiments_raise_few_false_alarms(law):
    units = LAWS[law](np.random.default_rng(5), (1000, 64, 2)).mean(axis=2)
    alarms = np.zeros(1000, dtype=bool)
    for count in range(8, 65, 8):
        low, high = anytime_interval(units[:, :count])
        alarms |= (low > 0) | (high < 0)
    assert alarms.mean() <= 0.05


def test_the_interval_narrows_and_is_infinite_where_units_are_too_few():
    reach = anytime_reach(np.array([2, 8, 16, 64, 1000]))
    assert np.isinf(reach[0]) and (np.diff(reach[1:]) < 0).all()
    assert anytime_reach(np.array(64), tests=10) > anytime_reach(np.array(64))


def test_a_large_effect_needs_few_and_a_small_one_many():
    assert units_needed(1.0, 2.0) < units_needed(1.0, 0.5) < units_needed(1.0, 0.1)
    told = forecast(np.array([[0.1, 0.3], [0.4, 0.2], [-0.2, 0.0]]), smallest=0.02, most=64)
    assert told.startswith("Pairs (prompts) until a difference is sure: of 0.02 takes about ")
    assert forecast(np.zeros((4, 2)), 0.02, 64) is None


@pytest.mark.parametrize(
    ("look", "better", "answer"),
    [
        (Look(8, 0.3, 0.1, 0.5), 1, "helps"),
        (Look(8, 0.3, 0.1, 0.5), -1, "harms"),
        (Look(8, -0.3, -0.5, -0.1), -1, "helps"),
        (Look(8, -0.3, -0.5, -0.1), 0, "lowers"),
        (Look(8, 0.3, -0.1, 0.5), 1, "undecided"),
        (Look(8, 0.3, None, None), 1, "undecided"),
        (Look(NOTHING_FROM, 0.0, -0.01, 0.01), 1, "makes no difference that matters"),
        (Look(NOTHING_FROM, 0.012, 0.005, 0.019), 1, "makes no difference that matters"),
        (Look(8, 0.0, -0.01, 0.01), 1, "undecided"),
    ],
)
def test_answers(look, better, answer):
    assert look.answer(better, smallest=0.02) == answer


def test_pairs_that_do_not_differ_answer_nothing():
    assert take_look(np.zeros((40, 2))) == Look(40, 0.0, None, None)


def test_what_cannot_be_told_apart_shares_a_rank():
    noise = np.random.default_rng(0).standard_normal((3, 64, 2)) * 0.1
    close, also_close, far = noise + np.array([0.0, 0.01, 1.0])[:, None, None]
    assert ranks([close, also_close, far], better=1) == [2, 2, 1]
    assert ranks([close, also_close, far], better=-1) == [1, 1, 3]

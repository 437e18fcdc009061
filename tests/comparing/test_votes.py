"""Rankings from choices between two, and the votes on a comparison."""

import csv
import tracemalloc
from math import log

import numpy as np
import pytest
from scipy.optimize import minimize

from lab.comparing.preferences import bradley_terry, connected, proportion
from lab.comparing.votes import Poll
from lab.errors import InputError

BASEBALL = np.array(
    [
        [0, 7, 9, 7, 7, 9, 11],
        [6, 0, 7, 5, 11, 9, 9],
        [4, 6, 0, 7, 7, 8, 12],
        [6, 8, 6, 0, 6, 7, 10],
        [6, 2, 6, 7, 0, 7, 12],
        [4, 4, 5, 6, 6, 0, 6],
        [2, 4, 1, 3, 1, 7, 0],
    ],
    dtype=float,
)
"""American League, 1987: Agresti, Categorical Data Analysis, table 10.10; each row's wins over the other teams."""

AGRESTI = [1.581, 1.436, 1.294, 1.248, 1.108, 0.684, 0.0]
"""What likelihood alone estimates there."""


@pytest.mark.parametrize(("won", "lost"), [(9, 3), (12, 0), (1, 1), (0, 40)])
def test_two_items_are_gart_s_logit(won, lost):
    strengths = bradley_terry(np.array([[0.0, won], [lost, 0.0]]))
    more, less = won + 0.5, lost + 0.5
    expected, arm = log(more / less), 1.959964 * (1 / more + 1 / less) ** 0.5
    told = [log(share / (1 - share)) for share in strengths.share(0, 1)]
    assert told == pytest.approx([expected, expected - arm, expected + arm], abs=1e-5)


def test_a_known_example_and_the_same_from_the_penalised_likelihood():
    found = bradley_terry(BASEBALL)
    relative = found.values - found.values[-1]
    assert relative == pytest.approx(AGRESTI, abs=0.05)  # the correction is small in 273 games
    assert np.all(np.argsort(-relative) == np.arange(7))
    errors = np.sqrt(np.diag(found.covariance) + found.covariance[-1, -1] - 2 * found.covariance[-1])
    assert errors[:-1] == pytest.approx(0.34, abs=0.02)  # there 0.34 of every team but the last

    def against(free):
        values = np.append(free, 0)
        chances = 1 / (1 + np.exp(values[None] - values[:, None]))
        known = (BASEBALL + BASEBALL.T) * chances * chances.T
        information = (np.diag(known.sum(axis=1)) - known)[:-1, :-1]
        return -(BASEBALL * np.log(chances)).sum() - np.linalg.slogdet(information)[1] / 2

    assert relative[:-1] == pytest.approx(minimize(against, np.zeros(6)).x, abs=1e-4)


def simulated(true, votes, generator):
    wins = np.zeros((len(true), len(true)))
    pairs = [(one, other) for one in range(len(true)) for other in range(one)]
    for place in range(votes):
        one, other = pairs[place % len(pairs)]
        first = generator.random() < 1 / (1 + np.exp(true[other] - true[one]))
        wins[(one, other) if first else (other, one)] += 1
    return wins


def test_the_order_is_recovered_and_intervals_hold_the_truth():
    generator = np.random.default_rng(0)
    true = np.array([0.0, 2.0, -1.5, 0.7])
    strengths = bradley_terry(simulated(true, 3000, generator))
    assert np.argsort(strengths.values).tolist() == [2, 0, 3, 1]
    held = []
    for _ in range(80):
        few = bradley_terry(simulated(true, 12, generator))
        for item in (1, 2, 3):
            _, low, high = few.share(item, 0)
            held.append(low <= 1 / (1 + np.exp(-true[item])) <= high)
    assert 0.93 <= np.mean(held) <= 0.995


def test_what_no_votes_connect_is_left_out():
    wins = np.zeros((4, 4))
    wins[0, 1] = wins[2, 3] = 3
    assert connected(wins, 0) == [0, 1] and connected(np.zeros((2, 2)), 1) == [1]
    assert bradley_terry(np.zeros((1, 1))).values.tolist() == [0.0]


def test_a_share_s_interval_is_wilson_s():
    low, high, p = proportion(9, 12)
    assert (low, high) == pytest.approx((0.4677, 0.9111), abs=1e-3) and p == pytest.approx(0.146, abs=1e-3)


HEAD, OF_BASELINE = "variant,baseline,prompt,seed,file\n", "x,True,a,1,f.png\n"
SEEDS, PROMPTS, VARIANTS = (1, 2), ("a cat", "a dog\nat night", "a fox"), ("none", "soft", "harsh")


@pytest.fixture
def folder(tmp_path):
    """A comparison's table: of each metric harsh images have the highest value, but for two that know nothing."""
    columns = [
        "variant",
        "baseline",
        "prompt",
        "seed",
        "file",
        "clip_text",
        "degraded",
        "sharpness",
        "clip_baseline",
    ]
    with (tmp_path / "results.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        for value, variant in enumerate(VARIANTS):
            for place, (prompt, seed) in enumerate((p, s) for p in PROMPTS for s in SEEDS):
                name = f"cells/{value}-{place}.png"
                said = prompt if variant == "none" else f"{prompt}, <{variant}>"
                row = [variant, variant == "none", said, seed, name, value, value, -((-1) ** place), value]
                table.writerow(row)
    return tmp_path


def variant_of(file):
    return VARIANTS[int(file[6])]


def vote_all(poll, choose, most=100):
    ballots = []
    while len(ballots) < most and (ballot := poll.next()):
        ballots.append(ballot)
        left, right = variant_of(ballot.left), variant_of(ballot.right)
        assert poll.vote(ballot.left, ballot.right, "left" if choose(left, right) else "right")
    return ballots


def test_ballots_show_equal_prompts_and_noise_and_spread_over_all(folder):
    ballots = vote_all(Poll(folder), lambda left, right: True)
    assert len(ballots) == 18 and Poll(folder).next() is None
    for one in ballots:
        assert one.left[8] == one.right[8] and variant_of(one.left) != variant_of(one.right)
        assert one.prompt == PROMPTS[int(one.left[8]) // 2]
    first = [frozenset(map(variant_of, (one.left, one.right))) for one in ballots[:3]]
    assert len(set(first)) == 3, "each two variants meet before any meet again"
    assert {one.prompt for one in ballots[:3]} == set(PROMPTS)
    assert 3 < sum(one.left[6] < one.right[6] for one in ballots) < 15, "either may lie left"


def test_of_a_thousand_variants_not_all_pairs_are_looked_at_each_time(tmp_path):
    rows = (f"v{number},{number == 0},a,1,{number}.png\n" for number in range(1000))
    (tmp_path / "results.csv").write_text(f"{HEAD}{''.join(rows)}")
    poll = Poll(tmp_path)
    tracemalloc.start()
    try:
        assert poll.next() is not None
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    finally:
        tracemalloc.stop()


def test_of_many_variants_all_pairs_come_in_the_end(folder, monkeypatch):
    monkeypatch.setattr("lab.comparing.votes.MOST_PAIRED", 2)
    ballots = vote_all(Poll(folder), lambda left, right: True)
    assert len({frozenset((one.left, one.right)) for one in ballots}) == 18


def test_votes_are_kept_and_count_once(folder):
    poll = Poll(folder)
    ballot = poll.next()
    assert Poll(folder).next() == ballot, "whoever comes back finds the same pair"
    assert poll.vote(ballot.left, ballot.right, "right")
    assert not Poll(folder).vote(ballot.right, ballot.left, "left"), "a second tab has the same pair"
    assert not poll.vote("cells/0-0.png", "../../etc/passwd", "left")
    with (folder / "votes.jsonl").open("a") as file:
        file.write('{"left": "cells/0-0')  # what a crash leaves
    assert [vote.in_order for vote in Poll(folder).votes()] == [(ballot.right, ballot.left)]
    poll.take_back()
    poll.take_back()
    assert poll.votes() == [] and poll.next() == ballot


def test_votes_become_a_ranking_and_tell_which_metric_agrees(folder):
    poll = Poll(folder)
    vote_all(poll, lambda left, right: left > right)  # soft, none, harsh
    ranking = poll.ranking()
    assert [rank.variant for rank in ranking] == ["soft", "none", "harsh"]
    assert [(rank.won, rank.among) for rank in ranking] == [(12, 12), (6, 12), (0, 12)]
    assert (ranking[1].share, ranking[1].low) == (0.5, None) and ranking[1].baseline
    assert 0.4 < ranking[0].low < ranking[0].share < ranking[0].high < 1, "six of six may still be chance"
    agreements = {one.metric: one for one in poll.agreements()}
    assert list(agreements) == ["degraded", "clip_text"], (
        "sharpness does not differ, and one looks at the baseline"
    )
    assert (agreements["degraded"].same, agreements["clip_text"].same) == (12, 6)
    assert not agreements["degraded"].higher and agreements["clip_text"].higher


def test_a_metric_that_agrees_is_clear_after_enough_votes(folder):
    poll = Poll(folder)
    vote_all(poll, lambda left, right: VARIANTS.index(left) > VARIANTS.index(right))
    first, last = poll.agreements()
    assert (first.metric, first.same, first.clear) == ("clip_text", 18, True) and first.low > 0.8
    assert (last.metric, last.same, last.clear) == ("degraded", 0, True), "it chooses the other way"


def test_before_any_vote_nobody_is_ranked(folder):
    assert [rank.share for rank in Poll(folder).ranking()] == [0.5, None, None]
    assert Poll(folder).agreements() == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a,b\n1,2\n",
        f"{HEAD}x,False,a,1,f.png\n",
        f"{HEAD}{OF_BASELINE}y,False,a,1,g.png\ny,False,a,2,h.png\n",  # which the baseline has not
    ],
)
def test_what_is_no_comparison_is_said(tmp_path, text):
    if text:
        (tmp_path / "results.csv").write_text(text)
    with pytest.raises(InputError, match=r"results\.csv"):
        Poll(tmp_path)

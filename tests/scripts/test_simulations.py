"""The simulations print what they say, here of few experiments."""

import sys

import pytest

from scripts import sim_intervals, sim_judge


@pytest.mark.parametrize(
    ("script", "last"),
    [(sim_intervals, r"so that false alarms are"), (sim_judge, "1.5 sd")],
    ids=["intervals", "judge"],
)
def test_a_simulation_of_few_experiments(script, last, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sim", "--experiments", "40"])
    script.main()
    assert last in capsys.readouterr().out.splitlines()[-1]

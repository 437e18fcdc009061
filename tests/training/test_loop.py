"""The loop by itself, on an objective that has nothing to do with images."""

import signal

import pytest
import torch
from accelerate import Accelerator

from lab.listening import Listener
from lab.training.config import TrainConfig
from lab.training.learned import Beginning, Initial, Learned
from lab.training.loop import Loop
from lab.training.objectives.objective import Objective, split_evenly
from lab.training.train import interruption
from tests.listening import Heard


class Quadratic(Objective):
    """Pulls vectors to a target; the examples of a step are numbers that scatter around 1."""

    def __init__(self, learned, broken_at=None):
        self.learned = learned
        self.target = torch.linspace(-1, 1, 32)
        self.step = 0
        self.broken_at = broken_at

    def fingerprint(self):
        return {}

    def describe(self):
        return iter(())

    def batch(self, step):
        self.step = step
        return [0.5, 1.0, 1.5]

    def fixed(self):
        return [[1.0, 1.0], [1.0]]

    def losses(self, examples):
        distance = (self.learned.parameters()[0] - self.target).square().sum()
        distance = distance * float("nan") if self.step == self.broken_at else distance
        return distance * torch.tensor(examples)


def make(bundle, broken_at=None, **settings):
    zero = Initial({"clip": torch.zeros(1, 32)}, (), "")
    learned = Learned(bundle, [Beginning("x", "concept", zero, 0.05)])
    config = TrainConfig(
        **{"steps": 300, "warmup": 0, "clip_gradient": 100.0, "evaluate_every": 5} | settings
    )
    objective = Quadratic(learned, broken_at)
    return Loop(objective, learned, config, Accelerator(cpu=True)), objective


def test_it_converges_and_stops_by_itself(sd1, heard):
    loop, objective = make(sd1)
    ending = loop.run(heard)
    torch.testing.assert_close(loop.state.best["x/clip"][0], objective.target, atol=0.05, rtol=0)
    assert "settled" in ending.reason and loop.state.step < 300 and len(heard.steps) == loop.state.step
    assert loop.state.best_loss == min(found["loss"] for _, found in loop.state.evaluations)


def test_steps_are_those_of_adamw_without_decay(sd1):
    loop, objective = make(sd1, steps=5, stop="never", schedule="cosine", optimizer="adamw")
    loop.run()
    rows = torch.nn.Parameter(torch.zeros(1, 32))
    optimizer = torch.optim.AdamW([rows], lr=0.05, weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5)
    for _ in range(5):
        optimizer.zero_grad()
        (rows - objective.target).square().sum().backward()
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(loop.learned.parameters()[0], rows)


def test_long_gradients_are_cut(sd1, heard):
    loop, _ = make(sd1, steps=2, clip_gradient=0.01)
    loop.run(heard)
    assert heard.steps[0].gradient_norm > 1
    assert loop.learned.parameters()[0].grad.norm() == pytest.approx(0.01, rel=1e-4)


def test_a_loss_that_is_no_number_puts_the_last_good_vectors_back(sd1):
    loop, _ = make(sd1, broken_at=7, evaluate_every=1000)
    good = []

    class Snapshots(Listener):
        def step(self, report, last):
            good.append(loop.learned.snapshot()["x/clip"])

    ending = loop.run(Snapshots())
    assert ending.failed and "step 8" in ending.reason
    assert torch.equal(loop.learned.snapshot()["x/clip"], good[5]), (
        "those of step 6, whose loss was a number at step 7"
    )


def test_an_interruption_ends_after_the_step(sd1):
    loop, _ = make(sd1)
    ending = loop.run(interrupted=lambda: loop.state.step == 3)
    assert ending.interrupted and loop.state.step == 4


def test_a_first_signal_is_told_and_a_second_interrupts():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs behind a shell ignores it
    heard = Heard()
    with interruption(heard) as came:
        assert not came()
        signal.raise_signal(signal.SIGTERM)
        assert came() and "once more to stop at once" in heard.notes[0]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def test_the_first_look_at_fixed_examples_is_followed(sd1):
    loop, _ = make(sd1)
    heard = Heard()
    loop.run(heard)
    assert heard.moves == [(2, 3, "fixed examples"), (3, 3, "fixed examples")]


@pytest.mark.parametrize("count", range(1, 7))
def test_every_example_is_in_one_part(count):
    cut = split_evenly(list(range(5)), count)
    assert [example for part in cut for example in part] == list(range(5)) and len(cut) <= count

"""The loop by itself, on an objective that has nothing to do with images."""

import pytest
import torch
from accelerate import Accelerator

from lab.training.config import TrainConfig
from lab.training.loop import Loop, Task, pieces
from lab.training.vectors import Learned


class Quadratic(Task):
    """Pulls vectors to a target; the examples of a step are numbers that scatter around 1."""

    def __init__(self, learned, broken_at=None):
        self.learned = learned
        self.target = torch.linspace(-1, 1, 32)
        self.step = 0
        self.broken_at = broken_at

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
    learned = Learned(bundle, {"x": {"clip": torch.zeros(1, 32)}}, {"x": "concept"})
    config = TrainConfig(
        **{"steps": 300, "warmup": 0, "clip_gradient": 100.0, "evaluate_every": 5} | settings
    )
    task = Quadratic(learned, broken_at)
    return Loop(task, learned, config, {"x": 0.05}, Accelerator(cpu=True)), task


def test_it_converges_and_stops_by_itself(sd1):
    loop, task = make(sd1)
    steps = []
    ending = loop.run(steps.append)
    torch.testing.assert_close(loop.state.best["x/clip"][0], task.target, atol=0.05, rtol=0)
    assert "settled" in ending.reason and loop.state.step < 300 and len(steps) == loop.state.step
    assert loop.state.best_loss == min(found["loss"] for _, found in loop.state.evaluations)


def test_steps_are_those_of_adamw_without_decay(sd1):
    loop, task = make(sd1, steps=5, stop="never", schedule="cosine")
    loop.run(lambda report: None)
    rows = torch.nn.Parameter(torch.zeros(1, 32))
    optimizer = torch.optim.AdamW([rows], lr=0.05, weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5)
    for _ in range(5):
        optimizer.zero_grad()
        (rows - task.target).square().sum().backward()
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(loop.learned.parameters()[0], rows)


def test_long_gradients_are_cut(sd1):
    reports = []
    loop, _ = make(sd1, steps=2, clip_gradient=0.01)
    loop.run(reports.append)
    assert reports[0].gradient_norm > 1
    assert loop.learned.parameters()[0].grad.norm() == pytest.approx(0.01, rel=1e-4)


def test_a_loss_that_is_no_number_puts_the_last_good_vectors_back(sd1):
    loop, _ = make(sd1, broken_at=7, evaluate_every=1000)
    good = []
    ending = loop.run(lambda report: good.append(loop.learned.snapshot()["x/clip"]))
    assert ending.failed and "step 8" in ending.reason
    assert torch.equal(loop.learned.snapshot()["x/clip"], good[5]), (
        "those of step 6, whose loss was a number at step 7"
    )


def test_an_interruption_ends_after_the_step(sd1):
    loop, _ = make(sd1)
    ending = loop.run(lambda report: None, interrupted=lambda: loop.state.step == 3)
    assert ending.interrupted and loop.state.step == 4


@pytest.mark.parametrize("count", range(1, 7))
def test_pieces_hold_every_example_once(count):
    cut = pieces(list(range(5)), count)
    assert [each for piece in cut for each in piece] == list(range(5)) and len(cut) <= count

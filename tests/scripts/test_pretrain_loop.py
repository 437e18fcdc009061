"""The pretraining loop: it learns, averages, stops and goes on; and the fast convolution against the plain one."""

import copy
import itertools
import random
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from scripts.pretrain.common import CONFIGS, read_config
from scripts.pretrain.convolution import speed_up_wide
from scripts.pretrain.loop import Budget, Objective, Run, train
from scripts.pretrain.recorded import AHEAD, PLAIN, Recorded
from scripts.pretrain.rehearse import STAGES, choices
from scripts.pretrain.unet import build
from scripts.pretrain.whiten import fold, measure, unfold

BUDGET = Budget(minutes=2, learning_rate=0.05, ema=0.9)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Every look at the clock takes half a second, whatever else the machine does."""
    ticks = itertools.count(step=0.5)
    monkeypatch.setattr("scripts.pretrain.loop.time.monotonic", lambda: next(ticks))


def run(folder, budget=BUDGET, recorded=False) -> Run:
    layer = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(layer.weight)
    return Run({"layer": layer}, folder, "cpu", budget, recorded)


class Line(Objective):
    """The layer is to give x - 2 y."""

    def __init__(self, a_run: Run):
        self.layer = a_run.modules["layer"]

    def __call__(self, generator, choice) -> torch.Tensor:
        x = torch.randn(64, 2, generator=generator)
        return (self.layer(x).float()[:, 0] - x @ torch.tensor([1.0, -2.0])).square().mean()


def test_rate_warms_up_and_falls_to_its_end():
    budget = Budget(minutes=1, learning_rate=1.0, warmup=0.1, final=0.01)
    rates = [budget.rate(share) for share in (0.0, 0.05, 0.1, 0.5, 1.0)]
    assert rates[0] < rates[1] < rates[2] == pytest.approx(1.0)
    assert rates[2] > rates[3] > rates[4] == pytest.approx(0.01)


def test_rate_holds_its_peak_before_it_falls():
    budget = Budget(minutes=1, learning_rate=1.0, hold=0.8)
    assert budget.rate(0.5) == budget.rate(0.8) == 1.0 > budget.rate(0.9)


def test_training_converges_and_the_average_follows(tmp_path):
    a_run = run(tmp_path)
    train(a_run, Line(a_run), None)
    for module in (a_run.modules["layer"], a_run.averages["layer"]):
        assert torch.allclose(module.weight, torch.tensor([[1.0, -2.0]]), atol=0.15)


def test_a_stretch_ends_early_and_the_next_goes_on(tmp_path):
    first = run(tmp_path)
    train(first, Line(first), BUDGET.minutes / 4)
    assert first.spent < BUDGET.minutes
    second = run(tmp_path)
    assert (second.step, second.spent) == (first.step, first.spent)
    assert torch.equal(second.averages["layer"].weight, first.averages["layer"].weight)
    assert torch.equal(second.generator.get_state(), first.generator.get_state())
    train(second, Line(second), None)
    assert second.spent >= BUDGET.minutes
    assert second.step > first.step


def test_wide_convolutions_give_the_same_gradients():
    plain = nn.Sequential(nn.Conv2d(8, 6, 3, padding=1), nn.SiLU(), nn.Conv2d(6, 8, 3, padding=1))
    fast = copy.deepcopy(plain)
    speed_up_wide(fast, channels=8)
    x = torch.randn(2, 8, 5, 4, generator=torch.Generator().manual_seed(0))
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    for model, own in zip((plain, fast), inputs, strict=True):
        model(own).square().sum().backward()
    assert torch.allclose(inputs[0].grad, inputs[1].grad, atol=1e-5)
    for a, b in zip(plain.parameters(), fast.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-4)


def test_a_copy_of_a_fast_model_uses_its_own_weights():
    fast = nn.Conv2d(8, 2, 3, padding=1)
    speed_up_wide(fast, channels=8)
    other = copy.deepcopy(fast)
    nn.init.zeros_(other.weight), nn.init.zeros_(other.bias)
    assert other(torch.ones(1, 8, 4, 4)).abs().max() == 0


def test_a_folded_unet_gives_for_plain_states_what_it_gave_for_whitened_ones():
    generator = torch.Generator().manual_seed(0)
    config = {"widths": [16, 16, 16], "heads": [1, 1, 1], "groups": 4, "latent_channels": 4}
    unet = build(config, text_width=8).eval()
    states = torch.randn(20, 5, 8, generator=generator) * torch.logspace(-1, 1, 8) + 3
    whitening = measure(states, floor=1e-4)
    noisy = torch.randn(2, 4, 16, 16, generator=generator)

    def output(words):
        return unet(noisy, torch.tensor([10, 900]), encoder_hidden_states=words).sample

    with torch.no_grad():
        before = output(whitening(states[:2]))
        fold(unet, whitening)
        assert torch.allclose(output(states[:2]), before, atol=1e-4)
        unfold(unet, whitening)
        assert torch.allclose(output(whitening(states[:2])), before, atol=1e-4)
    assert torch.allclose(torch.cov(whitening(states).flatten(0, 1).T), torch.eye(8), atol=1e-3)


class NeverWaiting(TorchDispatchMode):
    """Refuses what reads a tensor's values into Python, makes shapes of them, or makes a tensor of Python's numbers: a
    GPU would be waited for, and a recorded step could not do it."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function.overloadpacket)
        waiting = {"aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.lift_fresh"}
        assert name not in waiting, name
        return function(*args, **(kwargs or {}))


SMALL = {
    "vae": {"widths": [4, 4, 4, 8], "batch": 8, "warm_start": None},
    "decoder": {"widths": [4, 4, 4, 8], "batch": 8, "warm_start": None},
    "unet": {"widths": [16, 16, 16], "heads": [1, 1, 1], "batch": 4},
}


def test_an_autoencoder_that_learns_from_whole_images_never_sees_crops(tmp_path):
    """Not at the first step either: a card would be measured, and kernels compiled, for sizes that never come again."""
    settings = read_config(CONFIGS / "vae.yaml") | SMALL["vae"]
    _, objective = STAGES["vae"](settings, "cpu", tmp_path)
    assert {objective.choose(share, random.Random(0)).side for share in (0.0, 0.5, 1.0)} == {128}


def test_a_run_that_goes_on_steps_as_it_is_asked_to_now(tmp_path):
    """Recorded or not, whatever the checkpoint was: an optimizer that does not know it refuses to be recorded."""
    run(tmp_path).save()
    again = run(tmp_path, recorded=True)
    assert again.optimiser.param_groups[0]["capturable"]
    assert again.optimiser.param_groups[0]["lr"] is again.rate


class Card:
    """Stands for `torch.cuda`: what is computed while a graph is recorded is done by each replay of it."""

    def __init__(self):
        self.told, self.recording = [], None

    def stream(self, _):
        return nullcontext()

    def graph_pool_handle(self):
        return "memory"

    @contextmanager
    def graph(self, graph, pool):
        assert pool == "memory" and graph.generators, "what draws has to be known before"
        self.recording = graph
        yield
        self.recording = None

    def current_stream(self):
        return self.Stream()

    class Stream:
        def wait_stream(self, other):
            pass

    class CUDAGraph:
        def __init__(self):
            self.generators, self.work = [], None
            self.register_generator_state = self.generators.append

        def replay(self):
            self.work()

    class Event:
        waiting = 0

        def record(self):
            Card.Event.waiting += 1

        def synchronize(self):
            Card.Event.waiting -= 1


def test_a_step_of_each_kind_is_recorded_once_and_then_replayed(monkeypatch):
    card, generator = Card(), torch.Generator()
    monkeypatch.setattr("scripts.pretrain.recorded.torch", SimpleNamespace(cuda=card))
    done, totals = [], {"a": torch.zeros(()), "b": torch.zeros(())}

    def step(choice):
        def work():
            done.append("replayed" if replaying else "plain")
            totals[choice] += 1

        replaying = card.recording is not None
        if replaying:
            card.recording.work = work
        else:
            work()
        return totals[choice]

    advance = Recorded(step, generator)
    found = [advance(choice) for choice in "aaaaabbbbbaa"]
    plain = ["plain"] * PLAIN
    assert done == [*plain, "replayed", "replayed", *plain, *["replayed"] * 4]
    assert [value.item() for value in found[3:5]] == [4, 5]  # each call's own, whatever comes later
    assert Card.Event.waiting == AHEAD


@pytest.mark.parametrize("stage", SMALL)
def test_steps_that_may_be_recorded_never_wait_for_the_device(stage, tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.pretrain.rehearse.CLIP", tmp_path)
    settings = read_config(CONFIGS / f"{stage}.yaml") | SMALL[stage]
    a_run, objective = STAGES[stage](settings, "cpu", tmp_path)
    kinds = choices(objective)
    assert len(kinds) == (1 if stage == "unet" else 3)
    for choice in kinds:
        with NeverWaiting(), torch.autocast("cpu", torch.bfloat16):
            objective(a_run.generator, choice).backward()

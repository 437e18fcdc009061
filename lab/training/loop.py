"""The one training loop: whatever the objective, the learned vectors are stepped, measured and handed on from here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any, Protocol, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor

from lab.training.config import TrainConfig
from lab.training.learned import Learned, Snapshot
from lab.training.schedule import learning_rate
from lab.training.stopping import Stopping

GRADIENT_SCALE = 2.0**12
"""Keeps small gradients above float16's smallest number on their way back; a power of two changes no digit."""

E = TypeVar("E")


class Task(Protocol[E]):
    """What the loop needs to know of an objective; `E` is whatever the objective calls an example."""

    def batch(self, step: int) -> Sequence[E]:
        """The examples of a step, counted from 0, over all processes: a function of the seed and the step."""

    def fixed(self) -> Sequence[Sequence[E]]:
        """The examples on which progress is measured, in groups that are computed together."""

    def losses(self, examples: Sequence[E]) -> Tensor:
        """(len(examples),) float32 losses, differentiable with respect to the learned vectors."""


@dataclass
class State:
    """Where a run stands: with the vectors and the optimizer, all that a resumed run needs.

    Attributes:
        step: Steps done.
        evaluations: (step, objective on the fixed examples) in order.
        best: The vectors at the lowest evaluation after the first step, and `best_step`, `best_loss`.
    """

    step: int = 0
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    best: Snapshot = field(default_factory=dict)
    best_step: int = 0
    best_loss: float = inf


@dataclass(frozen=True)
class Report:
    """What an observer hears after each step.

    Attributes:
        step: Steps done.
        loss: Mean over the step's examples.
        evaluation: The objective on the fixed examples, where this step was evaluated.
    """

    step: int
    loss: float
    rate: float
    gradient_norm: float
    evaluation: float | None


@dataclass(frozen=True)
class Ending:
    """Why a run stopped. `failed`: the loss was no number; the vectors are the last good ones."""

    reason: str
    failed: bool = False
    interrupted: bool = False


Observer = Callable[[Report], None]


class Loop:
    """Steps learned vectors down an objective, in one process or several.

    Every process computes its share of a step's examples; gradients are summed, so the vectors stay equal.
    """

    def __init__(
        self, task: Task[Any], learned: Learned, config: TrainConfig, rate: float, accelerator: Accelerator
    ):
        self.state = State()
        self.learned = learned
        self.optimizer = torch.optim.AdamW(learned.parameters(), lr=rate, weight_decay=0.0)
        self._task = task
        self._config = config
        self._rate = rate
        self._accelerator = accelerator
        self._parameters = learned.parameters()
        self._good: Sequence[Tensor] = self._parameters

    def run(self, on_step: Observer, interrupted: Callable[[], bool] = lambda: False) -> Ending:
        """Steps until the last step, a settled objective, an interruption, or a loss that is no number."""
        state, stop = self.state, self._config.stop
        stopping = Stopping(self._config.stop_window, self._config.stop_ratio)
        last = self.last_step
        if not state.evaluations:
            state.evaluations.append((0, self.evaluate()))
        while state.step < last:
            loss, norm, told_to_stop = self._gradients(interrupted())
            if not (isfinite(loss) and isfinite(norm)):
                self._put_back()
                return Ending(f"the loss was no number at step {state.step + 1}", failed=True)
            rate = self._update(norm)
            evaluation = self._evaluated(last)
            on_step(Report(state.step, loss, rate, norm, evaluation))
            if told_to_stop:
                return Ending("interrupted", interrupted=True)
            if (
                stop == "auto"
                and evaluation is not None
                and stopping.settled([v for _, v in state.evaluations])
            ):
                return Ending("the objective on fixed examples has settled")
        return Ending("all steps are done" if last == self._config.steps else "stopped there, as asked")

    @property
    def last_step(self) -> int:
        """The step at which the run ends at the latest."""
        stop = self._config.stop
        return min(self._config.steps, int(stop)) if stop.isdigit() else self._config.steps

    @torch.no_grad()
    def evaluate(self) -> float:
        """The objective on the fixed examples, over all processes."""
        total = torch.zeros(2, dtype=torch.float64, device="cpu")
        for position, group in enumerate(self._task.fixed()):
            if position % self._accelerator.num_processes == self._accelerator.process_index:
                losses = self._task.losses(group)
                total += torch.tensor([losses.double().sum().item(), len(group)])
        total = self._accelerator.reduce(total.float().to(self._accelerator.device), reduction="sum")
        return float(total[0] / total[1])

    def _gradients(self, stop: bool) -> tuple[float, float, bool]:
        """Fills the parameters' gradients; returns the step's loss, their norm, and whether any process is to stop."""
        examples = self._task.batch(self.state.step)
        mine = examples[self._accelerator.process_index :: self._accelerator.num_processes]
        self.optimizer.zero_grad(set_to_none=False)
        loss = torch.zeros((), device=self._parameters[0].device)
        for piece in pieces(mine, self._config.accumulation):
            part = self._task.losses(piece).sum() / len(examples)
            (part * GRADIENT_SCALE).backward()
            loss += part.detach()
        flat = torch.cat([self._gradient(each).flatten() for each in self._parameters] + [loss[None]])
        if self._accelerator.num_processes > 1:
            flat = torch.cat([flat, torch.tensor([float(stop)], device=flat.device)])
            flat = self._accelerator.reduce(flat, reduction="sum")
            flat, stop = flat[:-1], bool(flat[-1] > 0)
        sizes = [each.numel() for each in self._parameters]
        for each, gradient in zip(self._parameters, flat[:-1].split(sizes), strict=True):
            each.grad = (gradient / GRADIENT_SCALE).view_as(each)
        value, norm = torch.stack([flat[-1], flat[:-1].norm() / GRADIENT_SCALE]).tolist()
        return value, norm, stop

    @staticmethod
    def _gradient(parameter: Tensor) -> Tensor:
        """Zeros where this process had no example."""
        return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad

    def _update(self, norm: float) -> float:
        """Makes one step of the optimizer and returns its learning rate."""
        config, state = self._config, self.state
        self._good = [each.detach().clone() for each in self._parameters]
        if norm > config.clip_gradient:
            for each in self._parameters:
                assert each.grad is not None
                each.grad.mul_(config.clip_gradient / norm)
        rate = learning_rate(state.step, config.steps, self._rate, config.warmup, config.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.learned.hold(config.norm)
        state.step += 1
        return rate

    def _evaluated(self, last: int) -> float | None:
        """Evaluates where it is time to, and keeps the best vectors."""
        state = self.state
        if state.step % self._config.evaluate_every and state.step != last:
            return None
        value = self.evaluate()
        state.evaluations.append((state.step, value))
        if value < state.best_loss:
            state.best, state.best_step, state.best_loss = self.learned.snapshot(), state.step, value
        return value

    @torch.no_grad()
    def _put_back(self) -> None:
        """Goes back to the last vectors whose loss was a number."""
        for each, good in zip(self._parameters, self._good, strict=True):
            each.copy_(good)


def pieces(examples: Sequence[E], count: int) -> list[Sequence[E]]:
    """Cuts examples into at most `count` pieces of nearly equal size."""
    size = max(-(-len(examples) // count), 1)
    return [examples[start : start + size] for start in range(0, len(examples), size)]
